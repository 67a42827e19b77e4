"""Takes personal data out of texts and JSON before anything is written. What counts as such is in recognizers.py.

Off changes nothing but user ids. Standard takes out what identifies a person or opens a door: e-mail addresses, phone
numbers, cards, IBANs, crypto wallets, IP and MAC addresses, national identity, tax and health numbers, credentials.
Strict also takes out URLs, dates, UUIDs, every number of seven digits or more, spelt-out addresses, and whatever looks
like one of those without being well formed. Names of people and places need a named-entity model (a setting).
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from rlhf_operator.api.policyrollout import Redaction

from .folding import fold

REDACTION_VERSION = "1"
"""Rises when what is found changes; every record says by which version it was redacted."""
MAX_TEXT_CHARACTERS = 262_144
"""Longer texts are not searched but replaced whole: there is an end to the time that one request may take."""
MAX_DEPTH = 32
_PIECE_CHARACTERS = 65_536
_OVERLAP_CHARACTERS = 8192
"""As long as the longest thing that is looked for: a private key."""
_SHORT_CHARACTERS = 48
_PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]{1,40}>")
_TOO_LONG = "<TOO_LONG>"
_TOO_DEEP = "<TOO_DEEP>"
_PSEUDONYM = "u_"
_PSEUDONYM_HEX = 32


class Finder(Protocol):
    """Finds personal data in a folded text."""

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Start, end and kind of each finding, without overlaps, in order."""


class Redactor:
    """Redacts texts and JSON by one mode; redacting again changes nothing."""

    def __init__(self, mode: Redaction, finder: Finder | None) -> None:
        """`finder` is None only where nothing is redacted."""
        if (finder is None) != (mode is Redaction.OFF):
            raise ValueError("a finder is needed exactly where something is redacted")
        self._finder = finder
        # Names of fields and roles come again in every record, and each search has a price whatever the length.
        self._short = lru_cache(maxsize=4096)(self._redacted)
        self.version = f"{REDACTION_VERSION}-{mode.value}"

    def text(self, text: str) -> str:
        """The text with `<KIND>` instead of each finding; the rest of it stays as it was, letter for letter."""
        if self._finder is None or not text:
            return text
        return self._short(text) if len(text) <= _SHORT_CHARACTERS else self._redacted(text)

    def _redacted(self, text: str) -> str:
        if len(text) > MAX_TEXT_CHARACTERS:
            return _TOO_LONG
        parts: list[str] = []
        last = 0
        for placeholder in _PLACEHOLDER.finditer(text):
            parts += [self._until_nothing(text[last : placeholder.start()]), placeholder.group()]
            last = placeholder.end()
        parts.append(self._until_nothing(text[last:]))
        return "".join(parts)

    def json(self, value: Any, depth: int = 0) -> Any:
        """The value with every text in it redacted, names of fields too; numbers are read as their text."""
        if self._finder is None:
            return value
        if depth > MAX_DEPTH:
            return _TOO_DEEP
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float():
                return value if self.text(str(value)) == str(value) else self.text(str(value))
            case Mapping():
                return {self.text(str(key)): self.json(each, depth + 1) for key, each in value.items()}
            case Sequence():
                return [self.json(each, depth + 1) for each in value]
        return self.text(str(value))

    def _until_nothing(self, text: str) -> str:
        # What stands around a finding is looked at again by itself: with a placeholder between its halves a text reads
        # differently, and the second redaction must not find what the first one did not.
        if not text.strip():
            return text
        found = self._find(text)
        if not found:
            return text
        parts: list[str] = []
        last = 0
        for start, end, kind in found:
            parts += [self._until_nothing(text[last:start]), f"<{kind}>"]
            last = end
        parts.append(self._until_nothing(text[last:]))
        return "".join(parts)

    def _find(self, text: str) -> list[tuple[int, int, str]]:
        """Findings in the original's places."""
        assert self._finder is not None
        folded = fold(text)
        found: list[tuple[int, int, str]] = []
        step = _PIECE_CHARACTERS - _OVERLAP_CHARACTERS
        for offset in range(0, max(len(folded.text) - _OVERLAP_CHARACTERS, 1), step):
            piece = folded.text[offset : offset + _PIECE_CHARACTERS]
            for start, end, kind in self._finder.find(piece):
                first, last = folded.original(start + offset, end + offset)
                found.append((first, last, kind))
        return _joined(found)


def _joined(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """In order and without overlaps; of two that overlap, as where pieces do, the longer one names the whole."""
    joined: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(found):
        if joined and start < joined[-1][1]:
            first, last, former = joined[-1]
            joined[-1] = (first, max(last, end), kind if end - start > last - first else former)
        else:
            joined.append((start, end, kind))
    return joined


class Pseudonyms:
    """Names for user ids that only the holder of the key can make: the same id, the same pseudonym."""

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        """`keys` gives the keys in force; the first one makes pseudonyms."""
        self._keys = keys

    def of(self, user: str) -> str:
        """The pseudonym; of a pseudonym, itself; of nobody, nothing."""
        if not user or _is_pseudonym(user):
            return user
        return _PSEUDONYM + self._keyed("user", user)

    def digest(self, content: str) -> str:
        """A digest that nobody without the key can try contents against."""
        return self._keyed("digest", content)

    def _keyed(self, purpose: str, text: str) -> str:
        content = f"{purpose}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.new(self._keys()[0], content, hashlib.sha256).hexdigest()[:_PSEUDONYM_HEX]


def _is_pseudonym(user: str) -> bool:
    return re.fullmatch(rf"{_PSEUDONYM}[0-9a-f]{{{_PSEUDONYM_HEX}}}", user) is not None

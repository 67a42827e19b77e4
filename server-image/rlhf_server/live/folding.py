"""How a text looks to a person, as plain letters and digits, with the way back to the text. Nothing is searched here.

Each character is folded by itself, so that every folded one knows where it came from: Unicode's compatibility mappings
(NFKD, of which NFKC differs only by joining letters and marks again), then marks and what has no width are left out,
digits of every script become 0-9, dashes and spaces become one of each, and letters that look like ASCII ones become
those: by Unicode's confusables.txt (UTS 39) as the package confusable-homoglyphs carries it.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from confusable_homoglyphs.confusables import confusables_data

_ZERO, _ONE = frozenset("Oo"), frozenset("lI|")
_JOINERS = frozenset(" -.()/")
# Drawn as nothing, though their category is a letter's or a symbol's.
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5")
_LEFT_OUT = frozenset({"Mn", "Me", "Cf", "Cc", "Cs"})
_KEPT_CONTROLS = frozenset("\t\n\r")


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text and where each of its characters stands in the original."""

    text: str
    origin: range | tuple[int, ...]
    """Index in the original of each character of `text`."""
    length: int
    """Characters of the original."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original that was folded to [start, end), start < end; with the marks that follow it."""
        first = self.origin[start]
        return first, (self.origin[end] if end < len(self.origin) else self.length)


def fold(text: str) -> Folded:
    """Fold a text."""
    if text.isascii() and text.isprintable():
        return Folded(text, range(len(text)), len(text))
    out: list[str] = []
    origin: list[int] = []
    foreign: list[int] = []
    for place, character in enumerate(text):
        folded = _fold_one(character)
        if not character.isascii() and folded in _ZERO | _ONE:
            foreign.append(len(out))
        out.extend(folded)
        origin.extend([place] * len(folded))
    for place in foreign:
        if _beside_digit(out, place):
            out[place] = "0" if out[place] in _ZERO else "1"
    return Folded("".join(out), tuple(origin), len(text))


def _beside_digit(out: list[str], place: int) -> bool:
    """A foreign letter that looks like O or l and stands in a number was put there instead of a digit."""
    for step in (-1, 1):
        near = place + step
        if 0 <= near < len(out) and out[near] in _JOINERS:
            near += step
        if 0 <= near < len(out) and out[near].isdigit():
            return True
    return False


@lru_cache(maxsize=16_384)
def _fold_one(character: str) -> str:
    """What one character looks like; empty when like nothing."""
    if character.isascii():
        return character if character.isprintable() or character in _KEPT_CONTROLS else ""
    if (alike := _LOOK_ALIKE.get(character)) is not None:
        return alike
    return "".join(_plain(part) for part in unicodedata.normalize("NFKD", character))


def _plain(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category in _LEFT_OUT or character in _INVISIBLE:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd" or character == "\u2212":
        return "-"
    if category == "Zs":
        return " "
    return _LOOK_ALIKE.get(character, character)


def _look_alikes() -> dict[str, str]:
    """Characters beyond ASCII that look like one letter, digit or sign of ASCII."""
    wanted = frozenset("@.-_+:/#%&*()[]{}|")
    found: dict[str, str] = {}
    for character, alike in confusables_data.items():
        if len(character) != 1 or character.isascii() or unicodedata.category(character) in {"Nd", *_LEFT_OUT}:
            continue
        for entry in alike:
            sign = entry["c"]
            if len(sign) == 1 and sign.isascii() and (sign.isalnum() or sign in wanted):
                found[character] = sign
                break
    # Full stops of other scripts, which domain names take for dots (UTS 46).
    return found | dict.fromkeys("\u3002\uff0e\uff61", ".")


_LOOK_ALIKE = _look_alikes()

"""Which files of a place outside are taken, held against limits before a byte is read. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rlhf_operator.api.plan import SourceContent
from rlhf_trainer.data.sources import SUFFIXES

from .trouble import Place

MAX_FILES = 10_000
MAX_BYTES = 4 << 40
_MAX_NAME = 255
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_SECOND_WEIGHTS = "consolidated*"
"""The same weights once more, for another library."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a place outside."""

    name: str
    """Relative to the place, with slashes."""
    size_bytes: int
    sha256: str | None = None
    """Hex digits, where the other side says it."""


def chosen(place: Place, content: SourceContent, entries: Sequence[Entry]) -> list[Entry]:
    """The files to fetch, by name. Raises ConfigError when there are none, or too many, or with names that lead out."""
    if len(entries) > MAX_FILES:
        raise place.unusable(f"holds more than {MAX_FILES} files: name a folder with fewer")
    for entry in entries:
        if not _is_plain(entry.name) or entry.size_bytes < 0:
            raise place.unusable(f"has a file with the name {entry.name[:80]!r}, which could lead out of its folder")
    found = sorted((entry for entry in entries if _wanted(content, entry.name)), key=lambda entry: entry.name)
    if content is SourceContent.MODEL and not any(entry.name.endswith(".safetensors") for entry in found):
        there = ", ".join(sorted(entry.name for entry in entries)[:5]) or "nothing"
        raise place.unusable(f"holds no *.safetensors: weights are read in that format only. It has {there}")
    if not found:
        names = f"files named {', '.join(SUFFIXES)}" if content is SourceContent.DATA else "a file"
        raise place.unusable(f"holds no data: there must be {names}", reason="NoRows")
    size = sum(entry.size_bytes for entry in found)
    if size > MAX_BYTES:
        raise place.unusable(f"has {size} bytes, more than {MAX_BYTES}", reason="SourceTooLarge")
    return found


def _wanted(content: SourceContent, name: str) -> bool:
    if content is SourceContent.ARTIFACT:
        return True
    if "/" in name or name.startswith("."):
        return False
    if content is SourceContent.DATA:
        return name.endswith(SUFFIXES)
    return any(fnmatchcase(name, each) for each in _MODEL_FILES) and not fnmatchcase(name, _SECOND_WEIGHTS)


def _is_plain(name: str) -> bool:
    """Whether a name stays below its folder on any file system."""
    if "\\" in name or any(ord(letter) < 32 for letter in name):
        return False
    return all(part not in ("", ".", "..") and len(part.encode()) <= _MAX_NAME for part in name.split("/"))

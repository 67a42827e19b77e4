"""Texts that are the same, or nearly: keys for exact comparison, MinHash for the rest. Who acts on it is elsewhere."""

import hashlib
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import regex
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

NEAR = 0.85
"""Jaccard similarity of character 5-grams from which on two texts are nearly the same."""
_SHINGLE = 5
_PERMUTATIONS = 128
_BANDS = (16, 8)
"""Bands and rows: a pair at the limit is looked at with probability 0.993, one at half of it with 0.02; each is
compared exactly. Left to itself, the library misses 54 % of the pairs at the limit."""
_CHARACTERS = 20_000
_BATCH = 512
Shingles = NDArray[np.uint32]
"""Hashes of a text's character 5-grams, each once, sorted: 4 bytes for each, where a set of integers takes 60."""

NOTHING: Shingles = np.empty(0, dtype=np.uint32)

_GAP = regex.compile(r"[\W_]+")
_NUMBER = regex.compile(r"\d+")


def key(*texts: str | None) -> bytes:
    """A 16-byte key: equal for texts that differ in white space and Unicode form only."""
    normal = (" ".join(unicodedata.normalize("NFC", text or "").split()) for text in texts)
    # A byte that UTF-8 never has stands between the texts.
    return hashlib.blake2b(b"\xff".join(text.encode() for text in normal), digest_size=16).digest()


class Signature(NamedTuple):
    """One text, ready to be compared."""

    row: int
    shingles: Shingles
    numbers: tuple[str, ...]
    minhash: MinHash


class NearIndex:
    """Finds an earlier text that is nearly the same as a given one.

    Two texts whose numbers differ are never nearly the same: 'order 17' and 'order 18' are two questions.
    """

    def __init__(self) -> None:
        self._lsh = MinHashLSH(params=_BANDS, num_perm=_PERMUTATIONS)
        self._known: list[tuple[Signature, Shingles]] = []

    def add(self, signature: Signature, part: Shingles = NOTHING) -> None:
        """Remember one text; `part`: shingles of a part of it that must be alike by itself."""
        self._lsh.insert(len(self._known), signature.minhash, check_duplication=False)
        self._known.append((signature._replace(minhash=None), part))

    def find(self, signature: Signature, part: Shingles = NOTHING) -> int | None:
        """The row of the first known text that is nearly this one."""
        candidates: list[int] = sorted(self._lsh.query(signature.minhash))
        for known, known_part in (self._known[at] for at in candidates):
            alike = known.numbers == signature.numbers and jaccard(known.shingles, signature.shingles) >= NEAR
            if alike and jaccard(known_part, part) >= NEAR:
                return known.row
        return None


def signatures(texts: Iterable[tuple[int, str]]) -> Iterator[Signature]:
    """For each (row, text) its signature, in order."""
    batch: list[tuple[int, str]] = []
    for item in texts:
        batch.append(item)
        if len(batch) == _BATCH:
            yield from _signatures(batch)
            batch = []
    yield from _signatures(batch)


def near_to(texts: Sequence[tuple[int, str]]) -> NearIndex:
    """An index of all the texts."""
    index = NearIndex()
    for item in signatures(texts):
        index.add(item)
    return index


def jaccard(first: Shingles, second: Shingles) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    common = len(np.intersect1d(first, second, assume_unique=True))
    union = len(first) + len(second) - common
    return common / union if union else 1.0


def shingles_of(text: str) -> Shingles:
    """Hashes of the character 5-grams of the text, in lower case, punctuation and space as one gap."""
    plain = _GAP.sub(" ", text[:_CHARACTERS].casefold()).strip()
    grams = (plain[at : at + _SHINGLE] for at in range(max(1, len(plain) - _SHINGLE + 1)))
    return np.unique(np.fromiter((zlib.crc32(gram.encode()) for gram in grams), dtype=np.uint32))


def _signatures(batch: list[tuple[int, str]]) -> Iterator[Signature]:
    shingled = [shingles_of(text) for _, text in batch]
    hashes = MinHash.bulk((each.tolist() for each in shingled), num_perm=_PERMUTATIONS, hashfunc=_identity)
    for (row, text), shingles, minhash in zip(batch, shingled, hashes, strict=True):
        yield Signature(row, shingles, tuple(_NUMBER.findall(text[:_CHARACTERS])), minhash)


def _identity(shingle: int) -> int:
    return shingle

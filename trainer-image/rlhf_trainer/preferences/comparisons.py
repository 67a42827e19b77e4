"""Judgements → comparisons of two texts (or one text alone), with weights such that every row counts once. Pure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from rlhf_operator.api.shared import Format

from .judgements import COMPARED, Judgement
from .verdicts import preference

NEIGHBOURS = 8
"""Scalar and Binary: comparisons that one text of a prompt takes part in, at most. A prompt with a thousand texts would
make half a million pairs that say little new."""


class Place(NamedTuple):
    """A text: its row and which of the row's responses."""

    row: int
    at: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two texts of one prompt, or one alone, and what was said about them before aggregation."""

    judgement: Judgement
    """The row (of a pair made of two rows, the lower one) with its prompt, dimension and slices."""
    first: Place
    second: Place | None
    keys: tuple[bytes, bytes | None]
    """Keys of the two texts."""
    votes: tuple[float | None, ...]
    """By annotator: 1 first is better, 0 second, ½ tie, None not judged. Of a lone text: how good, 0–1."""
    gold: float | None
    weight: float

    @property
    def cast(self) -> tuple[float, ...]:
        """The votes that were cast."""
        return tuple(vote for vote in self.votes if vote is not None)


def comparisons_of(wanted: Format, judgements: Sequence[Judgement]) -> list[Comparison]:
    """Every comparison that the rows of a data set hold, in the order of the rows."""
    if wanted in COMPARED:
        return [each for judgement in judgements for each in _within(judgement)]
    by_prompt: dict[tuple[str, bytes], list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_prompt[judgement.dimension, judgement.prompt].append(judgement)
    standing = _standing([_value(judgement) for judgement in judgements], wanted)
    groups = (_between(group, wanted, standing) for group in by_prompt.values())
    return sorted((each for group in groups for each in group), key=lambda found: (found.first, found.second or (0, 0)))


def _within(judgement: Judgement) -> list[Comparison]:
    """All pairs of a row's different responses that anybody compared; they share the row's weight."""
    found = []
    for first, second in combinations(range(len(judgement.responses)), 2):
        keys = judgement.responses[first], judgement.responses[second]
        votes = tuple(preference(ranks, first, second) for ranks in judgement.verdicts)
        gold = preference(judgement.gold, first, second)
        if keys[0] != keys[1] and any(vote is not None for vote in (*votes, gold)):
            found.append((Place(judgement.row, first), Place(judgement.row, second), keys, votes, gold))
    return [Comparison(judgement, *each, weight=judgement.weight / len(found)) for each in found]


def _between(group: list[Judgement], wanted: Format, standing: dict[float, float]) -> Iterator[Comparison]:
    """A prompt's texts against each other, and alone those that nothing is held against.

    n texts that differ weigh n/2 pairs together, as in Pairs, where a row is two texts and weighs 1.
    """
    pairs = [
        (one, other)
        for one, other in _pairs(group)
        if one.responses != other.responses and (wanted is Format.SCALAR or one.value != other.value)
    ]
    degree: dict[int, int] = defaultdict(int)
    for one, other in pairs:
        degree[one.row] += 1
        degree[other.row] += 1
    for judgement in group:
        if not degree[judgement.row]:
            alone = judgement.responses[0], None
            votes = (standing[_value(judgement)],)
            yield Comparison(judgement, Place(judgement.row, 0), None, alone, votes, None, judgement.weight)
    for one, other in pairs:
        keys = one.responses[0], other.responses[0]
        vote = 1.0 if _value(one) > _value(other) else 0.0 if _value(one) < _value(other) else 0.5
        weight = (one.weight / degree[one.row] + other.weight / degree[other.row]) / 2
        yield Comparison(one, Place(one.row, 0), Place(other.row, 0), keys, (vote,), None, weight)


def _pairs(group: list[Judgement]) -> Iterator[tuple[Judgement, Judgement]]:
    """Pairs in which each takes part at most `NEIGHBOURS` times: all of a small group, a ring of a large one."""
    if len(group) <= NEIGHBOURS + 1:
        yield from combinations(group, 2)
        return
    # An order that does not follow the file's, where neighbours may come from one model.
    ring = sorted(group, key=lambda each: hashlib.blake2b(each.responses[0] + each.row.to_bytes(8)).digest())
    seen = set()
    for at, one in enumerate(ring):
        for step in range(1, NEIGHBOURS // 2 + 1):
            low, high = sorted((one, ring[(at + step) % len(ring)]), key=lambda each: each.row)
            if (low.row, high.row) not in seen:
                seen.add((low.row, high.row))
                yield low, high


def _value(judgement: Judgement) -> float:
    return judgement.value or 0.0


def _standing(values: Iterable[float], wanted: Format) -> dict[float, float]:
    """What a lone text's value says by itself, 0–1: true or false as it is, a score by its mid-rank in the data set."""
    counts: dict[float, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    if wanted is Format.BINARY:
        return {value: value for value in counts}
    below, total, standing = 0, sum(counts.values()), {}
    for value in sorted(counts):
        standing[value] = (below + counts[value] / 2) / total
        below += counts[value]
    return standing

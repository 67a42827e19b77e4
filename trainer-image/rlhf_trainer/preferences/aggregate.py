"""Several votes on one comparison → one soft label. The methods' mathematics are in reliability.py and ranking.py."""

from collections import Counter as Votes
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_operator.api.rewardmodel import AggregationMethod

from .comparisons import Comparison
from .ranking import borda, bradley_terry
from .reliability import reliability_weighted

_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class Label:
    """What the votes amount to."""

    p_first: float
    """Soft label. Majority and Borda: 1 or 0 where there is a winner, else the share of the votes. The other methods: a
    probability."""
    tie: bool
    agreement: float
    """Share of the cast votes that are for the most frequent verdict, 0–1."""


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Labels by comparison, and what the method learnt of the annotators."""

    labels: list[Label]
    reliability: dict[str, list[float | None]]
    """ReliabilityWeighted: by dimension, by annotator, the expected share of right verdicts."""


def aggregate(method: AggregationMethod, comparisons: Sequence[Comparison]) -> Aggregated:
    """Label every comparison. A gold verdict is its label, whatever was voted."""
    reliability: dict[str, list[float | None]] = {}
    if method is AggregationMethod.RELIABILITY_WEIGHTED:
        labels, reliability = _by_reliability(comparisons)
    elif method is AggregationMethod.BRADLEY_TERRY:
        labels = _by_strength(comparisons)
    elif method is AggregationMethod.BORDA:
        labels = _by_points(comparisons)
    else:
        labels = [_by_majority(each) for each in comparisons]
    trusted = [
        label if each.gold is None else Label(each.gold, each.gold == 0.5, 1.0)
        for each, label in zip(comparisons, labels, strict=True)
    ]
    return Aggregated(trusted, reliability)


def agreement(votes: Sequence[float]) -> float:
    """Share of the votes that are for the most frequent verdict; 1 for one vote or none."""
    return Votes(votes).most_common(1)[0][1] / len(votes) if votes else 1.0


def share(votes: Sequence[float]) -> float:
    """Share of the votes for the first; a tie is half a vote for each."""
    return sum(votes) / len(votes) if votes else 0.5


def _by_majority(each: Comparison) -> Label:
    """The verdict of more than half of the votes. Where there is none, or it is a tie, the share of the votes."""
    votes = each.cast
    if each.second is None:
        return _of_lone(each)
    verdict, count = Votes(votes).most_common(1)[0] if votes else (0.5, 0)
    if verdict == 0.5 or 2 * count <= len(votes):
        return Label(share(votes), True, agreement(votes))
    return Label(verdict, False, agreement(votes))


def _of_lone(each: Comparison) -> Label:
    p_first = share(each.cast)
    return Label(p_first, p_first == 0.5, 1.0)


def _by_reliability(comparisons: Sequence[Comparison]) -> tuple[list[Label], dict[str, list[float | None]]]:
    by_dimension: dict[str, list[int]] = defaultdict(list)
    for at, each in enumerate(comparisons):
        by_dimension[each.judgement.dimension].append(at)
    labels: dict[int, Label] = {}
    reliability = {}
    for dimension, places in by_dimension.items():
        found = [comparisons[at] for at in places]
        if all(len(each.cast) < 2 for each in found):
            # Nobody can be held against anybody.
            labels |= {at: _by_majority(comparisons[at]) for at in places}
            continue
        weighted = reliability_weighted([each.votes for each in found], [each.gold for each in found])
        reliability[dimension] = weighted.reliability
        for at, (first, second, tie) in zip(places, weighted.chances, strict=True):
            level = tie > max(first, second) or abs(first - second) < _EQUAL
            labels[at] = Label(first + tie / 2, level, agreement(comparisons[at].cast))
    return [labels[at] for at in range(len(comparisons))], reliability


def _by_strength(comparisons: Sequence[Comparison]) -> list[Label]:
    """Bradley–Terry over all responses to a prompt: a response that stands in several rows gains from each of them."""
    by_prompt: dict[tuple[str, bytes], list[int]] = defaultdict(list)
    for at, each in enumerate(comparisons):
        if each.second is not None:
            by_prompt[each.judgement.dimension, each.judgement.prompt].append(at)
    labels = {at: _of_lone(each) for at, each in enumerate(comparisons) if each.second is None}
    for places in by_prompt.values():
        numbers: dict[bytes | None, int] = {}
        for at in places:
            for text in comparisons[at].keys:
                numbers.setdefault(text, len(numbers))
        ends = [(numbers[comparisons[at].keys[0]], numbers[comparisons[at].keys[1]]) for at in places]
        outcomes = [(*end, vote) for at, end in zip(places, ends, strict=True) for vote in _trusted(comparisons[at])]
        strengths = bradley_terry(outcomes, len(numbers))
        for at, (i, j) in zip(places, ends, strict=True):
            p_first = strengths[i] / (strengths[i] + strengths[j])
            labels[at] = Label(p_first, abs(p_first - 0.5) < 1e-6, agreement(comparisons[at].cast))
    return [labels[at] for at in range(len(comparisons))]


def _trusted(each: Comparison) -> tuple[float, ...]:
    return each.cast if each.gold is None else (each.gold,)


def _by_points(comparisons: Sequence[Comparison]) -> list[Label]:
    points = {}
    labels = []
    for each in comparisons:
        row = each.judgement
        if row.row not in points:
            points[row.row] = borda(row.verdicts, len(row.responses))
        if each.second is None:
            labels.append(_of_lone(each))
            continue
        ours, theirs = points[row.row][each.first.at], points[row.row][each.second.at]
        if ours is None or theirs is None or abs(ours - theirs) < _EQUAL:
            labels.append(Label(share(each.cast), True, agreement(each.cast)))
        else:
            labels.append(Label(float(ours > theirs), False, agreement(each.cast)))
    return labels

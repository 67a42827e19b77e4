"""Which labelled comparisons stand: enough agreement, ties as asked, no repetition, no contradiction. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf_operator.api.rewardmodel import Aggregation, Ties
from rlhf_trainer.data.reasons import Counter, DropReason

from .aggregate import Label
from .comparisons import Comparison

_SLACK = 1e-9

Problem = tuple[DropReason, str]


@dataclass(slots=True)
class Standing:
    """What is kept, and why the rest is not."""

    kept: list[tuple[Comparison, Label]] = field(default_factory=list)
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """Comparisons by reason."""


def standing(
    comparisons: Sequence[Comparison], labels: Sequence[Label], rules: Aggregation, counter: Counter
) -> Standing:
    """Keep what stands. A row of which nothing is kept is counted once, under the first reason."""
    found = Standing()
    problems: dict[int, Problem] = {}
    used: set[int] = set()
    repeated = Repeated(comparisons, labels)
    for at, (each, label) in enumerate(zip(comparisons, labels, strict=True)):
        problem = repeated.problem(at) or _problem(each, label, rules)
        rows = {each.first.row} | ({each.second.row} if each.second is not None else set())
        if problem is None:
            found.kept.append((each, label))
            used |= rows
            continue
        found.dropped[problem[0]] = found.dropped.get(problem[0], 0) + 1
        for row in rows:
            problems.setdefault(row, problem)
    for row in sorted(set(problems) - used):
        reason, detail = problems[row]
        counter.add(reason, row, detail)
    return found


class Repeated:
    """Comparisons of the same texts for the same prompt: all contradict each other, or all but the first repeat it."""

    def __init__(self, comparisons: Sequence[Comparison], labels: Sequence[Label]) -> None:
        self._comparisons = comparisons
        self._keys = [_key(each) for each in comparisons]
        self._first: dict[tuple[object, ...], int] = {}
        self._sides: dict[tuple[object, ...], dict[int, int]] = defaultdict(dict)
        for at, (each, label) in enumerate(zip(comparisons, labels, strict=True)):
            self._first.setdefault(self._keys[at], at)
            side = _side(each, label)
            if side:
                self._sides[self._keys[at]].setdefault(side, at)

    def problem(self, at: int) -> Problem | None:
        """Why a comparison does not stand beside the others."""
        sides = self._sides.get(self._keys[at], {})
        if len(sides) > 1:
            others = sorted({self._comparisons[other].first.row for other in sides.values()})
            own = self._comparisons[at].first.row
            others = [row for row in others if row != own] or others
            return DropReason.CONTRADICTION, f"row {others[0]} says otherwise of the same responses"
        first = self._first[self._keys[at]]
        if first != at:
            return DropReason.DUPLICATE, f"the same responses as in row {self._comparisons[first].first.row}"
        return None


def _problem(each: Comparison, label: Label, rules: Aggregation) -> Problem | None:
    if each.gold is None and label.agreement < rules.min_agreement - _SLACK:
        votes = ", ".join(f"{vote:g}" for vote in each.cast)
        return DropReason.LOW_AGREEMENT, f"the votes for the first response are {votes}"
    if label.tie and rules.ties is Ties.DROP:
        return DropReason.TIE, "no response wins"
    return None


def _key(each: Comparison) -> tuple[object, ...]:
    own, other = each.keys
    pair = (own, other) if other is None or own <= other else (other, own)
    return each.judgement.dimension, each.judgement.prompt, *pair


def _side(each: Comparison, label: Label) -> int:
    """1 or −1: which text wins, in an order that does not depend on which came first; 0 for neither."""
    if label.tie:
        return 0
    own, other = each.keys
    turned = other is not None and own > other
    return 1 if (label.p_first > 0.5) != turned else -1

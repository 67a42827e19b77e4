"""Win rates with their uncertainty: pure arithmetic on scores. Where the scores come from is in evaluate.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .length_control import length_controlled

RESAMPLES = 2_000
_TWO_SIDED_95 = 1.959963984540054
_CELLS = 4_000_000
"""Bound of one block of resampled counts, so that memory does not grow with prompts × resamples."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The policy against one baseline by one scorer."""

    win_rate: float
    """Share of texts that score higher than the baseline's for the same prompt; ties count one half."""
    lower: float
    upper: float
    """The 95 % interval of the win rate."""
    mean: float
    baseline_mean: float
    prompts: int
    """Different prompts with a score on both sides."""
    gain_lower: float | None
    gain_upper: float | None
    """The 95 % interval of mean - baseline_mean; None where every prompt gained the same."""
    length_controlled: float
    """The win rate at equal lengths (length_control.py)."""
    length_ratio: float | None
    """Mean length of the policy's texts over the baseline's; None where the baseline says nothing."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one policy said to every evaluation row, and how it was scored."""

    scores: Sequence[float | None]
    lengths: Sequence[int]
    """In characters, so that no tokenizer is favoured."""


def estimate(
    policy: Side, baseline: Side, prompts: Sequence[str], seed: int, judged: Sequence[float | None] | None = None
) -> Estimate | None:
    """Compare row by row; rows that lack a score (or a judgement) are left out. None when no row is left.

    prompts: what rows belong together; the bootstrap draws prompts, not rows. judged: by a judge that held both texts
    against each other, 1 where the policy's is better, ½ for neither, 0 where the baseline's is; without one the scores
    decide.
    """
    there = [
        at
        for at, pair in enumerate(zip(policy.scores, baseline.scores, prompts, strict=True))
        if None not in pair and (judged is None or judged[at] is not None)
    ]
    if not there:
        return None
    ours, theirs = _column(policy.scores, there), _column(baseline.scores, there)
    outcomes = np.where(ours > theirs, 1.0, np.where(ours == theirs, 0.5, 0.0))
    if judged is not None:
        outcomes = _column(judged, there)
    names, groups = np.unique([prompts[at] for at in there], return_inverse=True)
    lower, upper = interval(outcomes, groups, len(names), seed)
    gain = bootstrap(ours - theirs, groups, len(names), seed)
    our_lengths, their_lengths = _column(policy.lengths, there), _column(baseline.lengths, there)
    total = float(their_lengths.sum())
    return Estimate(
        win_rate=float(outcomes.mean()),
        lower=lower,
        upper=upper,
        mean=float(ours.mean()),
        baseline_mean=float(theirs.mean()),
        prompts=len(names),
        gain_lower=None if gain is None else gain[0],
        gain_upper=None if gain is None else gain[1],
        length_controlled=length_controlled(outcomes, our_lengths - their_lengths),
        length_ratio=float(our_lengths.sum()) / total if total else None,
    )


def _column(values: Sequence[float | None], there: Sequence[int]) -> NDArray[np.float64]:
    return np.array([values[at] for at in there], dtype=np.float64)


def interval(outcomes: NDArray[np.float64], groups: NDArray[np.intp], count: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean outcome: a bootstrap of groups, and Wilson's where that sees no spread.

    outcomes, groups: [rows], outcomes 0 … 1, groups valued 0 … count - 1. Three wins of three would give [1, 1].
    """
    found = bootstrap(outcomes, groups, count, seed)
    return wilson(float(outcomes.mean()), count) if found is None else found


def bootstrap(
    values: NDArray[np.float64], groups: NDArray[np.intp], count: int, seed: int
) -> tuple[float, float] | None:
    """The 95 % percentile interval of a mean, by a bootstrap of groups (Efron & Tibshirani 1993).

    values, groups: [rows], groups valued 0 … count - 1. None where every group has the same mean: resampling sees no
    spread at all. Percentiles of a skewed sum may leave the mean itself out by a hair: it is always let in.
    """
    sums = np.bincount(groups, weights=values, minlength=count)
    sizes = np.bincount(groups, minlength=count)
    means = sums / sizes
    if np.ptp(means) == 0.0:
        return None
    generator = np.random.default_rng(seed)
    block = max(1, _CELLS // count)
    rates = []
    for start in range(0, RESAMPLES, block):
        draws = generator.multinomial(count, np.full(count, 1.0 / count), size=min(block, RESAMPLES - start))
        rates.append((draws @ sums) / (draws @ sizes))
    lower, upper = np.percentile(np.concatenate(rates), [2.5, 97.5])
    mean = float(values.mean())
    return min(float(lower), mean), max(float(upper), mean)


def wilson(rate: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate seen in `count` trials (Wilson 1927)."""
    square = _TWO_SIDED_95**2
    centre = (rate + square / (2 * count)) / (1 + square / count)
    spread = _TWO_SIDED_95 * math.sqrt(rate * (1 - rate) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, centre - spread), min(1.0, centre + spread)

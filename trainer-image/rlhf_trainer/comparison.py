"""Win rates with their uncertainty: pure arithmetic on scores. Where the scores come from is in evaluate.py."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def estimate(
    policy: Sequence[float | None], baseline: Sequence[float | None], prompts: Sequence[str], seed: int
) -> Estimate | None:
    """Compare row by row; rows that lack a score on either side are left out. None when no row is left.

    prompts: what rows belong together; the bootstrap draws prompts, not rows.
    """
    pairs = [
        (ours, theirs, prompt)
        for ours, theirs, prompt in zip(policy, baseline, prompts, strict=True)
        if ours is not None and theirs is not None
    ]
    if not pairs:
        return None
    ours = np.array([pair[0] for pair in pairs])
    theirs = np.array([pair[1] for pair in pairs])
    outcomes = np.where(ours > theirs, 1.0, np.where(ours == theirs, 0.5, 0.0))
    names, groups = np.unique([pair[2] for pair in pairs], return_inverse=True)
    lower, upper = interval(outcomes, groups, len(names), seed)
    return Estimate(
        win_rate=float(outcomes.mean()),
        lower=lower,
        upper=upper,
        mean=float(ours.mean()),
        baseline_mean=float(theirs.mean()),
        prompts=len(names),
    )


def interval(outcomes: NDArray[np.float64], groups: NDArray[np.intp], count: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the mean outcome, by a bootstrap of groups (Efron & Tibshirani 1993).

    outcomes, groups: [rows], groups valued 0 … count - 1. Where every group has the same mean, resampling sees no
    spread at all (three wins of three would give [1, 1]): then the Wilson interval stands in.
    """
    sums = np.bincount(groups, weights=outcomes, minlength=count)
    sizes = np.bincount(groups, minlength=count)
    means = sums / sizes
    if np.ptp(means) == 0.0:
        return wilson(float(means[0]), count)
    generator = np.random.default_rng(seed)
    block = max(1, _CELLS // count)
    rates = []
    for start in range(0, RESAMPLES, block):
        draws = generator.multinomial(count, np.full(count, 1.0 / count), size=min(block, RESAMPLES - start))
        rates.append((draws @ sums) / (draws @ sizes))
    lower, upper = np.percentile(np.concatenate(rates), [2.5, 97.5])
    return float(lower), float(upper)


def wilson(rate: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate seen in `count` trials (Wilson 1927)."""
    square = _TWO_SIDED_95**2
    centre = (rate + square / (2 * count)) / (1 + square / count)
    spread = _TWO_SIDED_95 * math.sqrt(rate * (1 - rate) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, centre - spread), min(1.0, centre + spread)

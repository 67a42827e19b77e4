"""Verdicts on means: the published boundary, error rates over time, what is too little to say anything."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from rlhf_operator.policyrollout.confidence import Interval, Verdict
from rlhf_operator.policyrollout.confidence_means import (
    FEWEST,
    Moments,
    difference_interval,
    mean_interval,
    mean_ratio_verdict,
    mean_verdict,
)

Sampler = Callable[[np.random.Generator, int], NDArray[np.float64]]
SAMPLERS: dict[str, Sampler] = {
    "rewards": lambda generator, n: generator.normal(0.3, 2.0, n),
    "tokens": lambda generator, n: generator.lognormal(5.0, 0.8, n),
    "costs": lambda generator, n: generator.exponential(0.02, n),
}
MEANS = {"rewards": 0.3, "tokens": math.exp(5.0 + 0.32), "costs": 0.02}


def moments(values: NDArray[np.float64]) -> Moments:
    return Moments(float(len(values)), float(values.sum()), float((values**2).sum()))


@pytest.mark.parametrize("n", [300, 3000, 90_000])
@pytest.mark.parametrize("alpha", [0.0005, 0.01, 0.1])
def test_the_boundary_is_that_of_the_one_sided_normal_mixture(n: int, alpha: float) -> None:
    """Howard et al. 2021, Proposition 5, solved for the boundary; the closed form is a hair wider, never narrower."""
    level = -2 * math.log(2 * alpha)
    rho = 3000 / (level + math.log1p(level))

    def short_of(total: float) -> float:
        mixture = 0.5 * math.log(4 * rho / (n + rho)) + total**2 / (2 * (n + rho))
        return mixture + float(stats.norm.logcdf(total / math.sqrt(n + rho))) + math.log(alpha)

    exact = optimize.brentq(short_of, 0, 40 * math.sqrt(n + rho)) / n
    found = mean_interval(Moments(n, 0.0, n), 2 * alpha).upper
    assert exact <= found < 1.06 * exact


@pytest.mark.parametrize("name", SAMPLERS)
def test_false_verdicts_over_time_are_rarer_than_alpha(name: str) -> None:
    alpha, runs, generator = 0.1, 300, np.random.default_rng(3)
    looks = np.geomspace(FEWEST, 20_000, 30).astype(int)
    wrong = dict.fromkeys(Verdict, 0)
    for _ in range(runs):
        values = SAMPLERS[name](generator, int(looks[-1]))
        totals, squares = np.cumsum(values), np.cumsum(values**2)
        for verdict in {
            mean_verdict(Moments(float(n), float(totals[n - 1]), float(squares[n - 1])), MEANS[name], alpha)
            for n in looks
        }:
            wrong[verdict] += 1
    assert wrong[Verdict.ABOVE] <= alpha * runs
    assert wrong[Verdict.BELOW] <= alpha * runs


def test_false_verdicts_on_a_ratio_at_its_limit_are_rarer_than_alpha() -> None:
    """Candidate answers at exactly 1.2 times stable's length, with a ninth of its traffic."""
    alpha, runs, generator = 0.1, 300, np.random.default_rng(4)
    looks = np.geomspace(FEWEST, 4000, 20).astype(int)
    wrong = dict.fromkeys(Verdict, 0)
    for _ in range(runs):
        own, other = 1.2 * SAMPLERS["tokens"](generator, 4000), SAMPLERS["tokens"](generator, 36_000)
        for verdict in {
            mean_ratio_verdict(moments(own[:n]), moments(other[: 9 * n]), 1.2, alpha) for n in looks.tolist()
        }:
            wrong[verdict] += 1
    assert wrong[Verdict.ABOVE] <= alpha * runs
    assert wrong[Verdict.BELOW] <= alpha * runs


def test_answers_a_third_too_long_are_found() -> None:
    generator = np.random.default_rng(5)
    own, other = 1.6 * SAMPLERS["tokens"](generator, 2000), SAMPLERS["tokens"](generator, 18_000)
    assert mean_ratio_verdict(moments(own), moments(other), 1.2, 0.01) is Verdict.ABOVE
    assert mean_ratio_verdict(moments(other), moments(own), 1.2, 0.01) is Verdict.BELOW
    interval = difference_interval(moments(own), moments(other), 1.2, 0.02)
    assert interval.lower > 0


def test_a_ratio_is_the_difference_to_the_scaled_mean() -> None:
    candidate, stable = Moments(900, 5000, 40_000), Moments(700, 3000, 16_000)
    scaled = Moments(700, 2.5 * 3000, 2.5**2 * 16_000)
    found, expected = difference_interval(candidate, stable, 2.5, 0.01), difference_interval(candidate, scaled, 1, 0.01)
    assert (found.lower, found.upper) == pytest.approx((expected.lower, expected.upper))


def test_few_or_equal_samples_decide_nothing() -> None:
    everything = Interval(-math.inf, math.inf)
    assert mean_interval(Moments(FEWEST - 1, 1000.0, 1e6), 0.01) == everything
    assert mean_interval(Moments(0, 0, 0), 0.01) == everything
    assert mean_interval(Moments(5000, 5000, 5000), 0.01) == everything
    assert mean_verdict(Moments(0, 0, 0), 1.0, 0.01) is Verdict.UNDECIDED
    many = Moments(5000, 0, 5000)
    assert mean_ratio_verdict(many, Moments(FEWEST - 1, 1e6, 1e12), 1.2, 0.01) is Verdict.UNDECIDED
    assert difference_interval(Moments(3, 1, 1), many, 1.2, 0.01) == everything


def test_verdict_and_interval_agree() -> None:
    samples = Moments(2000, 1000, 1500)
    interval = mean_interval(samples, 0.02)
    for limit, expected in (
        (interval.lower - 1e-6, Verdict.ABOVE),
        (interval.lower + 1e-6, Verdict.UNDECIDED),
        (interval.upper - 1e-6, Verdict.UNDECIDED),
        (interval.upper + 1e-6, Verdict.BELOW),
    ):
        assert mean_verdict(samples, limit, 0.01) is expected is interval.verdict(limit)


def test_a_part_of_the_samples_has_their_mean_and_variance() -> None:
    samples = Moments(2000, 1000, 1500)
    part = samples.times(0.25)
    assert (part.n, part.mean, part.variance) == (500, samples.mean, samples.variance)
    assert mean_interval(part, 0.01).lower < mean_interval(samples, 0.01).lower


def test_impossible_moments_are_refused() -> None:
    for values in ((math.nan, 0, 0), (-1, 0, 0), (1, math.inf, 0), (1, 0, -1)):
        with pytest.raises(ValueError, match="moments"):
            Moments(*values)

"""Simulated traffic on stable and candidate, and the rules that may end it. Which cells are run: analysis.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, xlog1py, xlogy

from rlhf_operator.policyrollout.confidence import Count, Verdict, ratio_verdict
from rlhf_operator.policyrollout.confidence_evalues import RARE_WEIGHT, density

LOOK_SECONDS = 30
LOOKS = 24 * 3600 // LOOK_SECONDS
NEVER = LOOKS
"""Number of a look that does not come: nothing was rolled back."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One kind of traffic. `base` is stable's error rate, `multiple` the candidate's multiple of it."""

    base: float
    multiple: float
    weight: float
    rps: float

    @property
    def harm(self) -> float:
        """Requests that fail on the candidate and would not have failed on stable, per request to it."""
        return self.base * (self.multiple - 1)


@dataclass(frozen=True)
class Traffic:
    """Requests and errors between two looks, each [runs, LOOKS], as whole numbers."""

    requests: Array
    errors: Array
    stable_requests: Array
    stable_errors: Array


def simulate(cell: Cell, runs: int, generator: np.random.Generator) -> Traffic:
    """Poisson arrivals, each sent to the candidate with the chance `weight`, each failing independently."""
    shape = (runs, LOOKS)
    mean = cell.rps * LOOK_SECONDS
    own, other = mean * cell.weight, mean * (1 - cell.weight)
    bad = cell.base * cell.multiple
    errors, good = generator.poisson(own * bad, shape), generator.poisson(own * (1 - bad), shape)
    stable_errors = generator.poisson(other * cell.base, shape)
    stable_good = generator.poisson(other * (1 - cell.base), shape)
    numbers = (errors + good, errors, stable_errors + stable_good, stable_errors)
    return Traffic(*(number.astype(float) for number in numbers))


def anytime_valid(traffic: Traffic, max_ratio: float, alpha: float) -> NDArray[np.int64]:
    """The look at which the operator's own `ratio_verdict` first says ABOVE, for each run.

    numpy only skips looks that it can't: there an upper bound of the e-value, without the factor of the truncated beta,
    is under the level.
    """
    counts = [np.cumsum(part, axis=1) for part in _parts(traffic)]
    events, n, other_events, other_n = counts
    worth = _may_exceed(events, n, other_events, other_n, max_ratio, -math.log(alpha))
    found = np.full(len(n), NEVER)
    for run in np.flatnonzero(worth.any(axis=1)):
        for look in np.flatnonzero(worth[run]):
            own = Count(float(events[run, look]), float(n[run, look]))
            other = Count(float(other_events[run, look]), float(other_n[run, look]))
            if ratio_verdict(own, other, max_ratio, alpha) is Verdict.ABOVE:
                found[run] = look
                break
    return found


@dataclass(frozen=True)
class FixedThreshold:
    """Roll back at the `failures`-th window (in all, not in a row) whose error rate is above `limit`."""

    key: str
    window_seconds: int
    limit: float
    failures: int

    def rolled_back(self, traffic: Traffic) -> NDArray[np.int64]:
        """The look at which each run is rolled back. A window without requests does not count."""
        failed = np.cumsum(self._rates(traffic) > self.limit, axis=1) >= self.failures
        window = failed.argmax(axis=1)
        return np.where(failed.any(axis=1), (window + 1) * self._looks - 1, NEVER)

    def tuned(self, healthy: Traffic, share: float) -> FixedThreshold:
        """The lowest limit at which at most that share of these healthy runs is rolled back."""
        rates = np.sort(self._rates(healthy), axis=1)[:, -self.failures]
        return FixedThreshold(self.key, self.window_seconds, float(np.quantile(rates, 1 - share)), self.failures)

    @property
    def _looks(self) -> int:
        return self.window_seconds // LOOK_SECONDS

    def _rates(self, traffic: Traffic) -> Array:
        """Error rates by window, [runs, windows]; -1 without requests."""
        runs = len(traffic.requests)
        requests, errors = (
            part.reshape(runs, -1, self._looks).sum(axis=2) for part in (traffic.requests, traffic.errors)
        )
        return np.where(requests > 0, errors / np.maximum(requests, 1), -1.0)


def harmed(cell: Cell, traffic: Traffic, looks: NDArray[np.int64]) -> Array:
    """Expected requests harmed by run: those that the candidate got before the rollback, times the excess rate."""
    got = np.cumsum(traffic.requests, axis=1)
    return got[np.arange(len(got)), np.minimum(looks, LOOKS - 1)] * cell.harm


def _parts(traffic: Traffic) -> Sequence[Array]:
    return traffic.errors, traffic.requests, traffic.stable_errors, traffic.stable_requests


def _may_exceed(
    events: Array, n: Array, other_events: Array, other_n: Array, ratio: float, level: float
) -> NDArray[np.bool_]:
    """False where the operator's e-value is certainly under the level."""
    may = np.zeros(n.shape, bool)
    at = (n > 0) & (other_n > 0) & (events * other_n > ratio * other_events * n)
    events, n, other_events, other_n = events[at], n[at], other_events[at], other_n[at]
    expected = ratio * n / (ratio * n + other_n)
    total = events + other_events
    pooled = np.minimum(total / (ratio * n + other_n), 1 / ratio)
    # One rate that the hypothesis allows: its likelihood is at most the largest, so the quotients are upper bounds.
    allowed = _log_likelihood(events, n, ratio * pooled) + _log_likelihood(other_events, other_n, pooled)
    # No mixture is above the largest quotient.
    whose = _log_likelihood(events, total, events / total) - _log_likelihood(events, total, expected)
    rates = _log_likelihood(events, n, events / n) + _log_likelihood(other_events, other_n, other_events / other_n)
    near = np.maximum(whose, rates - allowed) >= level
    events, n, other_events, other_n = events[near], n[near], other_events[near], other_n[near]
    expected, total = expected[near], total[near]
    first, second = density(expected)  # type: ignore[arg-type]
    rare = betaln(first + events, second + total - events) - betaln(first, second)
    # Cut off at its mean, the density keeps at least a third of its mass.
    rare += math.log(3 * RARE_WEIGHT) - _log_likelihood(events, total, expected)
    common = _log_jeffreys(events, n) + _log_jeffreys(other_events, other_n) - allowed[near] + math.log(1 - RARE_WEIGHT)
    inside = np.zeros(len(near), bool)
    inside[near] = np.logaddexp(rare, common) >= level
    may[at] = inside
    return may


def _log_likelihood(events: Array, n: Array, rate: Array) -> Array:
    return np.asarray(xlogy(events, rate) + xlog1py(n - events, -rate))


def _log_jeffreys(events: Array, n: Array) -> Array:
    return np.asarray(betaln(events + 0.5, n - events + 0.5) - math.log(math.pi))

"""Verdicts and intervals that hold at every look, from counts alone. What is measured and what follows: analysis.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from .confidence_evalues import above, excess

_STEPS = 60
_CLOSE = 1e-10
_LOWEST = math.log(1e-12)
_HIGHEST_RATIO = 1e6
_MOST_SAMPLES = 10**12
_FIRST_WINDOW = 0.9


class Verdict(StrEnum):
    """Where a figure lies, as far as the samples tell."""

    ABOVE = "Above"
    BELOW = "Below"
    UNDECIDED = "Undecided"


@dataclass(frozen=True)
class Interval:
    """Bounds of a figure; infinite or 0 and 1 where nothing is known."""

    lower: float
    upper: float

    def verdict(self, limit: float) -> Verdict:
        """Where the interval lies against a limit."""
        if self.lower > limit:
            return Verdict.ABOVE
        return Verdict.BELOW if self.upper < limit else Verdict.UNDECIDED


@dataclass(frozen=True)
class Count:
    """`events` among `n` samples, or the sum of n values in [0, 1]. Neither need be whole: Prometheus extrapolates.

    More events than samples, which extrapolation yields by a fraction, are taken as n. Raises ValueError on a negative
    or infinite number.
    """

    events: float
    n: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.events) and math.isfinite(self.n) and self.events >= 0 and self.n >= 0):
            raise ValueError(f"counts must be finite and not negative: {self.events} of {self.n}")
        object.__setattr__(self, "events", min(self.events, self.n))

    @property
    def rest(self) -> Count:
        """The same samples, counted by what did not happen."""
        return Count(self.n - self.events, self.n)

    def times(self, share: float) -> Count:
        """A part of the samples, as by `surely_seen`."""
        return Count(self.events * share, self.n * share)


def share_verdict(events: float, n: float, limit: float, alpha: float) -> Verdict:
    """Whether a share is above or below a limit; the chance that this is ever wrong is at most alpha.

    Valid at every look, by `confidence_evalues.above` of the share and of its complement. A share exactly on
    the limit is neither, and then the chance is alpha for each side. ABOVE or BELOW exactly when
    `share_interval(events, n, 2 * alpha)` excludes the limit. limit and alpha: 0 … 1.
    """
    count = Count(events, n)
    _checked(alpha)
    if _share_evidence(count, limit) >= -math.log(alpha):
        return Verdict.ABOVE
    if _share_evidence(count.rest, 1 - limit) >= -math.log(alpha):
        return Verdict.BELOW
    return Verdict.UNDECIDED


def share_interval(events: float, n: float, alpha: float) -> Interval:
    """Two-sided confidence sequence of a share: the chance that it ever misses the share is at most alpha.

    All limits that neither side of `share_verdict` excludes at alpha / 2. (0, 1) without samples.
    """
    count = Count(events, n)
    _checked(alpha / 2)
    return Interval(_lowest_share(count, alpha / 2), 1 - _lowest_share(count.rest, alpha / 2))


def ratio_verdict(candidate: Count, stable: Count, ratio: float, alpha: float) -> Verdict:
    """Whether candidate's share is above or below `ratio` x stable's; ever wrong with a chance of at most alpha.

    A weighted mean of two e-values: whose events they are (tight where events are rare, also when stable has far more
    traffic) and universal inference on both rates (for all others). ratio > 0; alpha in (0, 1).
    """
    _checked(alpha)
    if _ratio_evidence(candidate, stable, ratio) >= -math.log(alpha):
        return Verdict.ABOVE
    if _ratio_evidence(stable, candidate, 1 / ratio) >= -math.log(alpha):
        return Verdict.BELOW
    return Verdict.UNDECIDED


def ratio_interval(candidate: Count, stable: Count, alpha: float) -> Interval:
    """Two-sided confidence sequence of candidate's share over stable's; (0, inf) while nothing is known."""
    _checked(alpha / 2)
    highest = _lowest_ratio(stable, candidate, alpha / 2)
    return Interval(_lowest_ratio(candidate, stable, alpha / 2), 1 / highest if highest > 0 else math.inf)


def samples_to_prove(limit: float, expected: float, alpha: float) -> int:
    """Samples after which a share that comes out exactly as expected is proven to be on its side of the limit.

    Stated before a step starts: a limit of 0.001 can't be proven with 500 samples even if nothing ever happens.
    Roughly log(1 / alpha) / limit for expected = 0, and without bound towards the limit. Raises ValueError when the
    expected share is the limit.
    """
    _checked(alpha)
    if expected == limit:
        raise ValueError(f"a share that is expected to be the limit itself, {limit}, is never proven")
    wanted = Verdict.ABOVE if expected > limit else Verdict.BELOW

    def proven(n: int) -> bool:
        return share_verdict(expected * n, n, limit, alpha) is wanted

    upper = 1
    while not proven(upper):
        upper *= 2
        if upper > _MOST_SAMPLES:
            return _MOST_SAMPLES
    lower = upper // 2
    while upper - lower > 1:
        middle = (lower + upper) // 2
        lower, upper = (lower, middle) if proven(middle) else (middle, upper)
    return upper


def alpha_of(confidence: float, metrics: int, steps: int, window: int = 0) -> float:
    """The alpha of one metric in one step: the rollout's 1 - confidence shared evenly, so that all sum to it.

    Looks within a step are free. `window` counts the windows that this metric began anew in this step (a RewardModel's
    version changed): the first gets nine tenths, each further one a tenth of the one before.
    """
    return (1 - confidence) / (max(metrics, 1) * max(steps, 1)) * _FIRST_WINDOW * (1 - _FIRST_WINDOW) ** window


def surely_seen(window_seconds: float, scrape_seconds: float) -> float:
    """The part of what Prometheus's `increase` says of a window that was counted and not extrapolated, 0 … 1.

    It stretches what lies between the first and the last scrape to the window, by at most window / (window - 2
    scrapes), and so claims more samples than there were: scraped and looked at every 30 s, 1.8 % of simulated runs
    were wrong at alpha 0.01, most within two minutes. Counts times this part are never too many (0.4 %).
    """
    return max(0.0, 1 - 2 * scrape_seconds / window_seconds) if window_seconds > 0 else 0.0


def _checked(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be inside (0, 1), not {alpha}")


def _share_evidence(count: Count, limit: float) -> float:
    """Log e-value against "at most limit"; a limit outside (0, 1) is decided by a single event."""
    if limit >= 1 or count.n <= 0:
        return 0.0
    if limit <= 0:
        return math.inf if count.events > 0 or limit < 0 else 0.0
    return above(count.events, count.n, limit)


def _lowest_share(count: Count, alpha: float) -> float:
    """The highest limit that the share is proven to exceed, 0 if none."""
    if count.events <= 0 or count.n <= 0:
        return 0.0
    wanted = -math.log(alpha)
    return _where_it_ends(lambda limit: _share_evidence(count, limit), wanted, count.events / count.n, count.events)


def _ratio_evidence(first: Count, second: Count, ratio: float) -> float:
    """Log e-value against "the first's share is at most ratio x the second's"."""
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"ratio must be a positive number, not {ratio}")
    return excess(first.events, first.n, second.events, second.n, ratio)


def _lowest_ratio(first: Count, second: Count, alpha: float) -> float:
    """The highest ratio that first's share over second's is proven to exceed, 0 if none."""
    if first.events <= 0 or first.n <= 0 or second.n <= 0:
        return 0.0
    wanted = -math.log(alpha)
    seen = first.events * second.n / (first.n * second.events) if second.events > 0 else _HIGHEST_RATIO
    return _where_it_ends(
        lambda ratio: _ratio_evidence(first, second, ratio), wanted, min(seen, _HIGHEST_RATIO), first.events
    )


def _where_it_ends(evidence: Callable[[float], float], wanted: float, seen: float, events: float) -> float:
    """The highest limit under `seen` at which the evidence, which falls with the limit, is as wanted; 0 when nowhere.

    Over the logarithm of the limit, in which evidence grows about as a parabola of events / 2: that is the first guess
    and gives the bracket for false position with Illinois' correction.
    """
    right, under = math.log(seen), evidence(seen) - wanted
    if under >= 0:
        return seen
    left, over = right, under
    step = math.sqrt(-2 * under / events)
    while over < 0:
        if left <= _LOWEST:
            return 0.0
        right, under = left, over
        left = max(left - step, _LOWEST)
        over = evidence(math.exp(left)) - wanted
        step *= 2
    before, was_over = math.inf, None
    for _ in range(_STEPS):
        middle = (left * under - right * over) / (under - over)
        found = evidence(math.exp(middle)) - wanted
        is_over = found >= 0
        if is_over:
            left, over = middle, found
        else:
            right, under = middle, found
        if abs(middle - before) < _CLOSE:
            break
        if is_over is was_over:
            over, under = (over, under / 2) if is_over else (over / 2, under)
        before, was_over = middle, is_over
    return math.exp(middle)


__all__ = [
    "Count",
    "Interval",
    "Verdict",
    "alpha_of",
    "ratio_interval",
    "ratio_verdict",
    "samples_to_prove",
    "share_interval",
    "share_verdict",
    "surely_seen",
]

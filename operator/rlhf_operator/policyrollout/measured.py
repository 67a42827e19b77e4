"""From the samples of one metric to its outcome: what is Failed, Successful, or says nothing. Pure.

Failed only when the confidence sequence excludes the limit; no data, stale data or an error neither fails nor passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from rlhf_operator.api.rolloutanalysis import PrometheusQuery
from rlhf_operator.common.measurements import Problem, ProblemReason, Sample, Value

from .confidence import Count, Interval, Verdict, ratio_interval, ratio_verdict, share_interval, share_verdict
from .confidence_means import (
    Moments,
    difference_interval,
    mean_interval,
    mean_ratio_verdict,
    mean_verdict,
)
from .presets import Kind, Limit, Side, Signal
from .rounds import SAMPLES, VALUE, key


class Outcome(StrEnum):
    """What one measurement says."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"
    NOT_APPLICABLE = "NotApplicable"


class Why(StrEnum):
    """Reasons of our own, beside those of a query that brought no figure."""

    PROVEN = "Proven"
    LIMIT_BROKEN = "LimitBroken"
    UNDECIDED = "Undecided"
    NO_SAMPLES = "NoSamples"
    STALE = "Stale"
    STABLE_ALSO_FAILS = "StableAlsoFails"
    INITIAL_DELAY = "InitialDelay"
    NOT_APPLICABLE = "NotApplicable"
    QUERY_INVALID = "QueryInvalid"
    CONDITION_MET = "ConditionMet"
    CONDITION_NOT_MET = "ConditionNotMet"
    WORSE_THAN_STABLE = "WorseThanStable"
    """Within its limit, and proven to be over stable's (violations, tokens, cost): what reward hacking looks like
    beside more wins."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement of one metric."""

    outcome: Outcome
    reason: str
    message: str = ""
    value: float | None = None
    interval: tuple[float, float] | None = None
    samples: int | None = None


_SILENT = frozenset({ProblemReason.EMPTY, ProblemReason.NOT_A_NUMBER, ProblemReason.STALE})
"""Nothing was measured. Every other problem is an Error: something is broken, and it is not the candidate."""
_EXPRESSION = re.compile(r"result *(>=|<=|==|!=|>|<) *(.+)")


class _NoFigure(Exception):
    def __init__(self, figure: Figure) -> None:
        super().__init__(figure.reason)
        self.figure = figure


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of one preset, by side and name. Raises _NoFigure with the outcome where there is none."""

    metric: str
    samples: Mapping[str, Sample]
    seen: float

    def has(self, name: str) -> bool:
        """Whether it was asked for."""
        return key(self.metric, name) in self.samples

    def share(self, side: str) -> Count:
        """Events and samples of a side."""
        n = self._samples(side)
        events = _number(self.metric, f"{side}/events", self.samples)
        return Count(max(0.0, events), n).times(self.seen)

    def moments(self, side: str) -> Moments:
        """Samples, sum and sum of squares of a side."""
        n = self._samples(side)
        total = _number(self.metric, f"{side}/plus", self.samples)
        if self.has(f"{side}/minus"):
            total -= _number(self.metric, f"{side}/minus", self.samples)
        squares = max(0.0, _number(self.metric, f"{side}/squares", self.samples))
        return Moments(n, total, squares).times(self.seen)

    def _samples(self, side: str) -> float:
        n = _number(self.metric, f"{side}/n", self.samples)
        # Less than one is what extrapolation makes of nothing.
        if n * self.seen < 1:
            words = f"{side} has no samples in this step yet"
            raise _NoFigure(Figure(Outcome.INCONCLUSIVE, Why.NO_SAMPLES, words, samples=0))
        return n


def judge_signal(name: str, signal: Signal, samples: Mapping[str, Sample], alpha: float, seen: float) -> Figure:
    """Judge a preset. samples: by `rounds.key(name, <side>/<count>)`. alpha: of this metric in this step.

    seen: the part of the counts that Prometheus has counted and not extrapolated (`confidence.surely_seen`).
    """
    counts = Counts(name, samples, seen)
    try:
        if signal.kind is Kind.SHARE:
            return _share(counts, signal, alpha)
        if signal.kind is Kind.MEAN:
            return _mean(counts, signal, alpha)
        return _win_of_means(counts, signal, alpha)
    except _NoFigure as error:
        return error.figure


def judge_query(name: str, query: PrometheusQuery, samples: Mapping[str, Sample]) -> Figure:
    """Judge a query of the user's own by the comparisons they wrote; without samples it says nothing."""
    try:
        count = _number(name, SAMPLES, samples)
        if count <= 0:
            return Figure(Outcome.INCONCLUSIVE, Why.NO_SAMPLES, "the samples query gives 0", samples=0)
        value = _number(name, VALUE, samples)
    except _NoFigure as error:
        return error.figure
    n = int(count)
    if query.failure is not None and holds(query.failure, value):
        words = f"{_round(value)} after {n} samples: {query.failure}"
        return Figure(Outcome.FAILED, Why.CONDITION_MET, words, value, samples=n)
    if query.success is not None and holds(query.success, value):
        words = f"{_round(value)} after {n} samples: {query.success}"
        return Figure(Outcome.SUCCESSFUL, Why.CONDITION_MET, words, value, samples=n)
    if query.success is None:
        words = f"{_round(value)} after {n} samples: not {query.failure}"
        return Figure(Outcome.SUCCESSFUL, Why.CONDITION_NOT_MET, words, value, samples=n)
    if query.failure is None:
        words = f"{_round(value)} after {n} samples: not {query.success}"
        return Figure(Outcome.FAILED, Why.CONDITION_NOT_MET, words, value, samples=n)
    words = f"{_round(value)} after {n} samples: neither {query.success} nor {query.failure}"
    return Figure(Outcome.INCONCLUSIVE, Why.UNDECIDED, words, value, samples=n)


def holds(expression: str, value: float) -> bool:
    """Whether a comparison as `result >= 0.9` holds of a value. Raises ValueError for another text."""
    match = _EXPRESSION.fullmatch(expression)
    if match is None:
        raise ValueError(f"{expression!r} is no comparison of result with a number")
    operator, limit = match[1], float(match[2])
    return {
        ">=": value >= limit,
        "<=": value <= limit,
        ">": value > limit,
        "<": value < limit,
        "==": value == limit,
        "!=": value != limit,
    }[operator]


def _share(counts: Counts, signal: Signal, alpha: float) -> Figure:
    candidate = counts.share("candidate")
    limit = signal.limit
    n = int(candidate.n)
    if limit.ratio is not None:
        stable = counts.share("stable")
        verdict = ratio_verdict(candidate, stable, limit.ratio, alpha)
        interval = ratio_interval(candidate, stable, 2 * alpha)
        value = candidate.events * stable.n / (candidate.n * stable.events) if stable.events > 0 else None
        share, former = candidate.events / candidate.n, stable.events / stable.n
        words = f"{_round(share)} against {_round(former)} of stable, {_bounds(interval, alpha)} of its"
        return _figure(signal, verdict, limit.ratio, value, interval, n, alpha, words)
    bound = limit.absolute if limit.absolute is not None else math.nan
    verdict = share_verdict(candidate.events, candidate.n, bound, alpha)
    interval = share_interval(candidate.events, candidate.n, 2 * alpha)
    found = _figure(signal, verdict, bound, candidate.events / candidate.n, interval, n, alpha)
    if found.outcome is Outcome.FAILED and not signal.paired:
        return _unless_stable_fails(counts, signal, found, alpha)
    return _beside_stable(counts, signal, found, alpha)


def _beside_stable(counts: Counts, signal: Signal, found: Figure, alpha: float) -> Figure:
    """Within an upper limit, and yet proven to be higher than stable's."""
    if signal.paired or signal.limit.side is not Side.ABOVE or not counts.has("stable/n"):
        return found
    try:
        if signal.kind is Kind.SHARE:
            share = counts.share("stable")
            verdict, value = ratio_verdict(counts.share("candidate"), share, 1.0, alpha), share.events / share.n
        else:
            moments = counts.moments("stable")
            verdict, value = mean_ratio_verdict(counts.moments("candidate"), moments, 1.0, alpha), moments.mean
    except _NoFigure:
        return found
    if verdict is not Verdict.ABOVE:
        return found
    words = f"{found.message}; proven to be over stable's {_round(value)}"
    return replace(found, reason=Why.WORSE_THAN_STABLE, message=words)


def _unless_stable_fails(counts: Counts, signal: Signal, found: Figure, alpha: float) -> Figure:
    """An absolute limit that stable breaks too in the same window is not the candidate's doing."""
    if not counts.has("stable/n"):
        return found
    bound = signal.limit.absolute if signal.limit.absolute is not None else math.nan
    try:
        if signal.kind is Kind.SHARE:
            stable = counts.share("stable")
            verdict, value = share_verdict(stable.events, stable.n, bound, alpha), stable.events / stable.n
        else:
            moments = counts.moments("stable")
            verdict, value = mean_verdict(moments, bound, alpha), moments.mean
    except _NoFigure:
        return found
    if verdict is not _bad(signal.limit):
        return found
    words = f"{found.message}; stable breaks the same limit ({_round(value)})"
    return Figure(Outcome.INCONCLUSIVE, Why.STABLE_ALSO_FAILS, words, found.value, found.interval, found.samples)


def _mean(counts: Counts, signal: Signal, alpha: float) -> Figure:
    candidate = counts.moments("candidate")
    n, limit = int(candidate.n), signal.limit
    if limit.ratio is None:
        bound = limit.absolute if limit.absolute is not None else math.nan
        verdict, interval = mean_verdict(candidate, bound, alpha), mean_interval(candidate, 2 * alpha)
        found = _figure(signal, verdict, bound, candidate.mean, interval, n, alpha)
        if found.outcome is Outcome.FAILED:
            return _unless_stable_fails(counts, signal, found, alpha)
        return _beside_stable(counts, signal, found, alpha)
    stable = counts.moments("stable")
    # A mean may be negative, as rewards are: a ratio of 0.9 then allows a tenth of its size below it, as above zero.
    ratio = limit.ratio if stable.mean >= 0 else 2 - limit.ratio
    verdict = mean_ratio_verdict(candidate, stable, ratio, alpha)
    spread = difference_interval(candidate, stable, ratio, 2 * alpha)
    bound = ratio * stable.mean
    interval = Interval(bound + spread.lower, bound + spread.upper)
    return _figure(signal, verdict, bound, candidate.mean, interval, n, alpha)


def _win_of_means(counts: Counts, signal: Signal, alpha: float) -> Figure:
    """Of two independent normal scores: P(candidate > stable) = Phi((m - m') / sqrt(s^2 + s'^2))."""
    candidate, stable = counts.moments("candidate"), counts.moments("stable")
    bound = signal.limit.absolute if signal.limit.absolute is not None else math.nan
    spread = math.sqrt(candidate.variance + stable.variance)
    if spread == 0:
        return Figure(
            Outcome.INCONCLUSIVE, Why.UNDECIDED, "all scores are alike: nothing to compare", samples=int(candidate.n)
        )
    apart = difference_interval(candidate, stable, 1.0, 2 * alpha)
    interval = Interval(_normal(apart.lower / spread), _normal(apart.upper / spread))
    value = _normal((candidate.mean - stable.mean) / spread)
    words = "unpaired, scores taken for normal"
    return _figure(signal, interval.verdict(bound), bound, value, interval, int(candidate.n), alpha, words)


def _figure(
    signal: Signal,
    verdict: Verdict,
    bound: float,
    value: float | None,
    interval: Interval,
    n: int,
    alpha: float,
    words: str = "",
) -> Figure:
    limit = signal.limit
    bad = _bad(limit)
    side = "over" if limit.side is Side.ABOVE else "under"
    unit = signal.unit or "samples"
    shown = words or (f"{_round(value)} ({_bounds(interval, alpha)})" if value is not None else "nothing")
    times = f"{_round(limit.ratio)} times stable's" if limit.ratio is not None else _round(bound)
    bounds = (interval.lower, interval.upper) if math.isfinite(interval.lower + interval.upper) else None
    if verdict is bad:
        return Figure(Outcome.FAILED, Why.LIMIT_BROKEN, f"{shown} {side} {times} after {n} {unit}", value, bounds, n)
    if verdict is Verdict.UNDECIDED:
        return Figure(
            Outcome.INCONCLUSIVE, Why.UNDECIDED, f"{shown}, limit {times}, after {n} {unit}", value, bounds, n
        )
    kept = "under" if limit.side is Side.ABOVE else "over"
    return Figure(Outcome.SUCCESSFUL, Why.PROVEN, f"{shown} {kept} {times} after {n} {unit}", value, bounds, n)


def _bad(limit: Limit) -> Verdict:
    return Verdict.ABOVE if limit.side is Side.ABOVE else Verdict.BELOW


def _number(name: str, count: str, samples: Mapping[str, Sample]) -> float:
    sample = samples.get(key(name, count))
    if isinstance(sample, Value):
        return sample.value
    if isinstance(sample, Problem):
        if sample.reason in _SILENT:
            raise _NoFigure(Figure(Outcome.INCONCLUSIVE, sample.reason, f"{count}: {sample.message}"))
        raise _NoFigure(Figure(Outcome.ERROR, sample.reason, f"{count}: {sample.message}"))
    raise _NoFigure(Figure(Outcome.ERROR, Why.QUERY_INVALID, f"{count} was not asked for"))


def _bounds(interval: Interval, alpha: float) -> str:
    """`99.8 % 0.37-0.45`: the sequence whose two sides have alpha each."""
    level = 100 * (1 - 2 * alpha)
    lower, upper = (_round(each) if math.isfinite(each) else "?" for each in (interval.lower, interval.upper))
    return f"{level:.4g} % {lower}–{upper}"


def _round(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _normal(x: float) -> float:
    if math.isinf(x):
        return 1.0 if x > 0 else 0.0
    return 0.5 * math.erfc(-x / math.sqrt(2))

"""The analysis of one step: a round becomes the metrics' status, and that says whether the step may end. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rlhf_operator.api.policyrollout import Hold, PolicyRolloutSpec
from rlhf_operator.api.rolloutanalysis import AdvanceWhen
from rlhf_operator.api.rolloutstatus import MetricStatus
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.measurements import Problem, Round, Sample, Value
from rlhf_operator.common.reasons import Reason

from . import rounds
from .confidence import alpha_of, samples_to_prove, surely_seen
from .decision import Gate, GateState
from .measured import Figure, Outcome, Why, judge_query, judge_signal
from .metrics import InForce, Measured
from .presets import Kind, Side, signal_of
from .rounds import Ask, Step

WORDS = 512
_GOES_ON = frozenset({Why.UNDECIDED, Why.PROVEN, Why.CONDITION_MET, Why.CONDITION_NOT_MET, Why.WORSE_THAN_STABLE})
"""Reasons that rest on fresh samples and do not hold a step up."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a look at the measurements says."""

    gate: Gate
    metrics: tuple[MetricStatus, ...] = ()
    """As they are to be recorded, in the order of the spec."""
    samples: int | None = None
    """Requests that the candidate has answered in this step; None: not measured."""
    healthy: bool | None = None
    """Whether measuring works: None before the first round."""
    words: str = ""


def judge(
    spec: PolicyRolloutSpec,
    step: Step,
    metrics: InForce,
    recorded: Sequence[MetricStatus],
    asked: Ask | None,
    found: Round | None,
    now: datetime,
    scrape_seconds: float,
) -> Analysis:
    """Return what follows from a round, or from the recorded ones until the next is due.

    scrape_seconds: time between two scrapes of a pod by the Prometheus that was asked.
    """
    if metrics.problem:
        return Analysis(
            Gate(GateState.WAIT, Reason.INVALID_SPEC, metrics.problem), healthy=False, words=metrics.problem
        )
    before = rounds.of_step(recorded, step)
    if asked is None or found is None:
        kept = tuple(before[each.metric.name] for each in metrics.metrics if each.metric.name in before)
        return Analysis(_between(step, metrics, kept), kept, healthy=_works(kept), words=_broken(kept))
    alpha = _alpha(spec, metrics)
    new = tuple(
        _status(
            each, before.get(each.metric.name), _figure(step, each, asked, found, alpha, now, scrape_seconds), step, now
        )
        for each in metrics.metrics
    )
    samples = found.samples.get(rounds.REQUESTS)
    count = int(samples.value) if isinstance(samples, Value) else None
    gate = _gate(spec, step, metrics, new, count, found, alpha, now)
    return Analysis(gate, new, count, _works(new), _broken(new))


def _alpha(spec: PolicyRolloutSpec, metrics: InForce) -> float:
    """The chance of a wrong verdict that each metric has in each step; baking is one of them."""
    confidence = spec.analysis.confidence if spec.analysis is not None else 0.99
    return alpha_of(confidence, sum(each.gates for each in metrics.metrics), len(spec.strategy.steps) + 1)


def _figure(
    step: Step, measured: Measured, asked: Ask, found: Round, alpha: float, now: datetime, scrape_seconds: float
) -> Figure:
    name = measured.metric.name
    words = rounds.not_applicable(step, measured)
    if words:
        return Figure(Outcome.NOT_APPLICABLE, Why.NOT_APPLICABLE, words)
    if name in asked.problems:
        return Figure(Outcome.ERROR, Why.QUERY_INVALID, asked.problems[name])
    if now < step.begin(measured) + timedelta(seconds=1):
        return Figure(Outcome.INCONCLUSIVE, Why.INITIAL_DELAY, "its initialDelay is not over")
    signal = signal_of(measured.metric)
    if signal is None:
        query = measured.metric.query
        assert query is not None
        return judge_query(name, query, found.samples)
    seen = surely_seen((now - step.begin(measured)).total_seconds(), scrape_seconds)
    figure = judge_signal(name, signal, found.samples, alpha, seen)
    old = _stale(step, found.samples.get(rounds.JUDGE_AGE if signal.judged else rounds.SERVING_AGE))
    if old and figure.samples:
        return Figure(Outcome.INCONCLUSIVE, Why.STALE, old, figure.value, figure.interval, figure.samples)
    return figure


def _stale(step: Step, age: Sample | None) -> str:
    """Why the newest sample is too old to speak of the present; empty when it is not."""
    limit = rounds.recent_seconds(step)
    if isinstance(age, Value):
        return "" if age.value <= limit else f"the newest sample is {age.value:.0f} s old"
    if isinstance(age, Problem):
        return f"no pod has told Prometheus anything of late ({age.reason})"
    return ""


def _status(measured: Measured, before: MetricStatus | None, figure: Figure, step: Step, now: datetime) -> MetricStatus:
    failed, inconclusive, errors = (
        (before.failed or 0, before.inconclusive or 0, before.errors or 0) if before is not None else (0, 0, 0)
    )
    counted = figure.outcome is Outcome.INCONCLUSIVE and figure.reason != Why.INITIAL_DELAY
    return MetricStatus(
        metric=measured.metric.name,
        outcome=figure.outcome.value,
        value=figure.value,
        interval=list(figure.interval or ()),
        samples=figure.samples,
        at=now,
        reason=str(figure.reason),
        message=cut(figure.message, WORDS) or None,
        step=step.name,
        failed=failed + (figure.outcome is Outcome.FAILED),
        inconclusive=inconclusive + counted,
        errors=errors + 1 if figure.outcome is Outcome.ERROR else 0,
    )


def _between(step: Step, metrics: InForce, kept: Sequence[MetricStatus]) -> Gate:
    """The gate while no round is due: a step never ends on figures of before, but it may have failed."""
    next_round = rounds.due_at(step, kept)
    failed = next(_failures(metrics, kept), None)
    if failed is not None:
        return failed
    return next(_limits_reached(metrics, kept), Gate(GateState.WAIT, Reason.RUNNING, "", wake_at=next_round))


def _gate(
    spec: PolicyRolloutSpec,
    step: Step,
    metrics: InForce,
    new: Sequence[MetricStatus],
    samples: int | None,
    found: Round,
    alpha: float,
    now: datetime,
) -> Gate:
    """What the fresh measurements say about the end of the step."""
    decided = next(_failures(metrics, new), None) or next(_limits_reached(metrics, new), None)
    if decided is not None:
        return decided
    next_round = now + timedelta(seconds=step.analysis.interval.seconds)
    hold = _hold(spec, step)
    waits = list(_waits(step, hold, metrics, new, samples, found, alpha, now))
    if not waits:
        return _suspicion(metrics, new) or Gate(GateState.ADVANCE)
    words = "; ".join(waits)
    over = (
        hold is not None and hold.maximum is not None and now >= step.started + timedelta(seconds=hold.maximum.seconds)
    )
    if over and hold is not None:
        words = f"undecided after {hold.maximum} (hold.maximum): {words}"
        return Gate(GateState.PAUSE, Reason.UNDECIDED, words, wake_at=next_round)
    return Gate(GateState.WAIT, Reason.RUNNING, words, wake_at=next_round)


def _hold(spec: PolicyRolloutSpec, step: Step) -> Hold | None:
    if step.bakes:
        return Hold(minimum=spec.strategy.bake)
    return next((each.hold for each in spec.strategy.steps if each.name == step.name), None)


def _failures(metrics: InForce, statuses: Sequence[MetricStatus]) -> Iterator[Gate]:
    for each in statuses:
        measured = metrics.named(each.metric)
        if measured is None or not measured.gates or (each.failed or 0) <= measured.metric.failure_limit:
            continue
        if each.outcome == Outcome.FAILED:
            yield Gate(GateState.FAILED, Reason.ANALYSIS_FAILED, f"{_title(measured)} {each.message}", each.metric)


def _limits_reached(metrics: InForce, statuses: Sequence[MetricStatus]) -> Iterator[Gate]:
    for each in statuses:
        measured = metrics.named(each.metric)
        if measured is None or not measured.gates:
            continue
        limit = measured.metric.inconclusive_limit
        if limit is not None and (each.inconclusive or 0) > limit:
            words = f"{_title(measured)} was inconclusive {each.inconclusive} times (inconclusiveLimit): {each.message}"
            yield Gate(GateState.PAUSE, Reason.ANALYSIS_PAUSED, words, each.metric)
        limit = measured.metric.error_limit
        if limit is not None and (each.errors or 0) > limit:
            words = (
                f"{_title(measured)} could not be measured {each.errors} times in a row (errorLimit): {each.message}"
            )
            yield Gate(GateState.PAUSE, Reason.ANALYSIS_PAUSED, words, each.metric)


def _waits(
    step: Step,
    hold: Hold | None,
    metrics: InForce,
    new: Sequence[MetricStatus],
    samples: int | None,
    found: Round,
    alpha: float,
    now: datetime,
) -> Iterator[str]:
    """Yield what the step still waits for."""
    if hold is not None:
        until = step.started + timedelta(seconds=hold.minimum.seconds)
        if now < until:
            yield f"holds for {hold.minimum}"
        if hold.samples is not None and (samples or 0) < hold.samples:
            yield f"{samples or 0} of {hold.samples} samples"
    recent = found.samples.get(rounds.RECENT)
    if not isinstance(recent, Value) or recent.value <= 0:
        yield f"the candidate got no request in the last {rounds.recent_seconds(step)} s"
    for each in new:
        measured = metrics.named(each.metric)
        if measured is None or not measured.gates or each.outcome == Outcome.NOT_APPLICABLE:
            continue
        title = _title(measured)
        if each.outcome == Outcome.FAILED:
            yield f"{title} failed {each.failed} times of {measured.metric.failure_limit} tolerated: {each.message}"
        elif each.outcome == Outcome.ERROR:
            yield f"{title} can't be measured: {each.message}"
        elif each.reason not in _GOES_ON:
            yield f"{title}: {each.message}"
        elif measured.metric.advance_when is AdvanceWhen.PROVEN and each.outcome != Outcome.SUCCESSFUL:
            yield f"{title} is not proven: {each.message}{_needs(measured, alpha)}"


def _needs(measured: Measured, alpha: float) -> str:
    """How many samples a proof takes at the least, where that can be said beforehand."""
    signal = signal_of(measured.metric)
    if signal is None or signal.kind is not Kind.SHARE or signal.limit.absolute is None:
        return ""
    best = 0.0 if signal.limit.side is Side.ABOVE else 1.0
    if not 0 < signal.limit.absolute < 1:
        return ""
    return f" (takes at least {samples_to_prove(signal.limit.absolute, best, alpha)} samples)"


def _suspicion(metrics: InForce, new: Sequence[MetricStatus]) -> Gate | None:
    """More wins together with more violations than stable: what reward hacking looks like. A person decides."""
    presets = {each.metric.name: each.metric.preset for each in metrics.metrics}
    wins = any(
        (preset := presets.get(each.metric)) is not None
        and preset.reward_win_rate is not None
        and each.interval
        and each.interval[0] > 0.5
        for each in new
    )
    worse = next((each for each in new if each.reason == Why.WORSE_THAN_STABLE and _gates(metrics, each)), None)
    if not wins or worse is None:
        return None
    words = f"wins rise together with {worse.metric}, which looks like reward hacking: {worse.message}"
    return Gate(GateState.PAUSE, Reason.ANALYSIS_PAUSED, words, worse.metric)


def _gates(metrics: InForce, status: MetricStatus) -> bool:
    measured = metrics.named(status.metric)
    return measured is not None and measured.gates


def _title(measured: Measured) -> str:
    """The metric as people know it: a preset by its name, with the metric's own where that says more."""
    signal = signal_of(measured.metric)
    return signal.name if signal is not None else measured.metric.name


def _works(statuses: Sequence[MetricStatus]) -> bool | None:
    return all(each.outcome != Outcome.ERROR for each in statuses) if statuses else None


def _broken(statuses: Sequence[MetricStatus]) -> str:
    return "; ".join(f"{each.metric}: {each.message}" for each in statuses if each.outcome == Outcome.ERROR)

"""One look at one PolicyRollout: what is decided, and the plan of writes it makes. Pure: no IO, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.rolloutstatus import StepStatus
from rlhf_operator.common.intents import Plan, WriteFailure
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.refused import REFUSED_POLL, problem_status, refused

from . import live
from .analysis import Analysis, judge
from .conditions import Beside, wanted_conditions
from .events import transitions
from .live import Scorers
from .look import Look
from .progress import decide
from .status import rollout_status
from .views import Observed
from .writes import Writes, can_scale, writes

POLL = timedelta(seconds=60)
"""Texts and metric sets are ConfigMaps of the user's, which nobody watches; nor does KEDA tell when it is installed."""
SOON = timedelta(seconds=1)
AGAIN = timedelta(seconds=5)
"""A dry run that got no answer is asked for again."""


def reconcile(look: Look, now: datetime) -> Plan:
    """Decide everything about one PolicyRollout from one look."""
    observed = look.observed
    spec = observed.spec
    if spec is None:
        return _unreadable(observed, now)
    scorers = _scorers(look, now)
    observed = replace(observed, waits_for=scorers.waits_for)
    analysis = _analysis(look, spec, now)
    decision = decide(observed, analysis.gate if analysis is not None else None, now)
    made = writes(look, spec, decision, scorers)
    beside = Beside(scorers.waits_for, made.problem, _no_autoscaler(observed, spec))
    shown = decision.traffic
    conditions = wanted_conditions(observed, spec, decision, analysis, shown, beside)
    status = rollout_status(observed, decision, analysis, look.metrics, scorers.used, shown, conditions, now)
    wakes = [decision.wake_at, *_polls(look, spec, made, now)]
    if decision.record or _clock_of(decision.step) != _clock_of(observed.status.step):
        # A revision begins, and what ends a step is asked, with the one and the clock of the other on record; our own
        # writes wake nobody for sure.
        wakes.append(now + SOON)
    return Plan(
        apply=made.apply,
        create=made.create,
        delete=made.delete,
        status=status,
        events=(*decision.events, *transitions(observed.status, status)),
        wake_at=min((each for each in wakes if each is not None), default=None),
    )


def _clock_of(step: StepStatus | None) -> datetime | None:
    return step.started_at.replace(microsecond=0) if step is not None and step.started_at is not None else None


def failure_plan(look: Look, now: datetime, failure: WriteFailure) -> Plan:
    """Return the status that tells of a write the server refused."""
    reason, words = refused(failure)
    status = problem_status(look.observed, reason, words, now, permanent=not failure.retriable, serves=True)
    # What is retriable comes back by the queue's own back-off.
    again = None if failure.retriable else now + REFUSED_POLL
    return Plan(status=status, events=transitions(look.observed.status, status), wake_at=again)


def _scorers(look: Look, now: datetime) -> Scorers:
    route = look.observed.route
    under_way = route is not None and route.traffic is not None and bool(route.traffic.candidate)
    return live.resolve(look.metrics, look.observed.status.scorers, look.models, now, under_way=under_way)


def _analysis(look: Look, spec: PolicyRolloutSpec, now: datetime) -> Analysis | None:
    if look.step is None:
        return None
    scrape = look.observed.defaults.prometheus_scrape_seconds
    return judge(spec, look.step, look.metrics, look.observed.status.analysis, look.ask, look.found, now, scrape)


def _no_autoscaler(observed: Observed, spec: PolicyRolloutSpec) -> str:
    if spec.serving.autoscaling is None or can_scale(observed):
        return ""
    why = "KEDA is not installed" if not observed.keda else "the operator knows no Prometheus (prometheusURL)"
    return f"{why}: the number of pods follows no load"


def _polls(look: Look, spec: PolicyRolloutSpec, made: Writes, now: datetime) -> Iterator[datetime]:
    """Yield when to look again for what nobody tells of."""
    if made.holds:
        yield now + AGAIN
    texts = spec.serving.system_prompt or spec.serving.chat_template
    sets = spec.analysis is not None and spec.analysis.metric_sets
    scales = spec.serving.autoscaling is not None and not look.observed.keda
    template = look.observed.wanted.reason == Reason.TEMPLATE_INVALID
    if texts or sets or scales or template or made.problem:
        yield now + POLL


def _unreadable(observed: Observed, now: datetime) -> Plan:
    words = (
        f"the spec can't be read by this version of the operator: {observed.spec_problem}. Upgrade the operator, or "
        "change the spec; what serves is left alone"
    )
    status = problem_status(observed, Reason.INVALID_SPEC, words, now, permanent=True, serves=True)
    return Plan(status=status, events=transitions(observed.status, status))

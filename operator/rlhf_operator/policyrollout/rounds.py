"""One round of an analysis: when it is due, whose figures it asks for, and by which queries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus
from rlhf_operator.api.rolloutanalysis import Analysis
from rlhf_operator.api.rolloutstatus import MetricStatus
from rlhf_operator.common.names import Owner

from .metrics import InForce, Measured
from .presets import Kind, Scope, judge_age_query, queries, requests_query, serving_age_query, signal_of
from .templates import TemplateProblem, TemplateValues, render
from .views import BAKE, PROMOTE, ROLLBACK, STARTING, Traffic

REQUESTS, RECENT, SERVING_AGE, JUDGE_AGE = ":requests", ":recent", ":age", ":judge-age"
"""Names of the queries that belong to no metric."""
VALUE, SAMPLES = "value", "samples"
RECENT_SECONDS = 120
"""Shortest time without a request after which traffic has stopped."""
RECENT_ROUNDS = 4
_UNMEASURED = frozenset({"", STARTING, ROLLBACK, PROMOTE})
"""Stages in which the candidate has no traffic yet, or takes over whatever the figures say."""


@dataclass(frozen=True, slots=True)
class Step:
    """The step under way, as far as measuring goes."""

    owner: Owner
    analysis: Analysis
    traffic: Traffic
    name: str
    started: datetime
    since: Mapping[str, datetime] = field(default_factory=dict)
    """By metric: when the version of its scorer came into use, where that was within the step."""

    @property
    def candidate_live(self) -> bool:
        """Whether users get answers of the candidate."""
        return self.traffic.weight > 0 or bool(self.traffic.headers)

    @property
    def stable_live(self) -> bool:
        """Whether users get answers of stable."""
        return self.traffic.weight < 100

    @property
    def bakes(self) -> bool:
        """Whether everything already goes to the candidate."""
        return self.name == BAKE

    def begin(self, measured: Measured) -> datetime:
        """Return the moment from which a metric counts."""
        start = max(self.started, self.since.get(measured.metric.name, self.started))
        return start + timedelta(seconds=measured.metric.initial_delay.seconds)

    def scope(self, window: int) -> Scope:
        """Return whose figures are asked for."""
        return Scope(
            namespace=self.owner.namespace,
            rollout=self.owner.name,
            stable=self.traffic.stable,
            candidate=self.traffic.candidate,
            window=window,
            candidate_live=self.candidate_live,
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """The queries of a round that is due."""

    step: Step
    url: str
    secret: str
    """Secret with the credentials; empty: none."""
    queries: Mapping[str, str]
    problems: Mapping[str, str] = field(default_factory=dict)
    """By metric: why it can't be asked for."""


def step_of(owner: Owner, spec: PolicyRolloutSpec, status: PolicyRolloutStatus, traffic: Traffic | None) -> Step | None:
    """Return the step under way once its clock runs; None while nothing is to be measured."""
    if spec.analysis is None or traffic is None or traffic.step in _UNMEASURED:
        return None
    clock = status.step
    if clock is None or clock.name != traffic.step or clock.started_at is None:
        return None
    since = {each.metric: each.since for each in status.scorers if each.since is not None}
    later = {name: at for name, at in since.items() if at > clock.started_at}
    return Step(owner, spec.analysis, traffic, traffic.step, clock.started_at, later)


def of_step(recorded: Iterable[MetricStatus], step: Step) -> dict[str, MetricStatus]:
    """Return the recorded measurements that belong to this step, by metric."""
    return {
        each.metric: each
        for each in recorded
        if each.step == step.name and each.at is not None and each.at >= step.started
    }


def due_at(step: Step, recorded: Iterable[MetricStatus]) -> datetime:
    """Return when the next round is due: an interval after the last, the first an interval into the step."""
    times = [each.at for each in of_step(recorded, step).values() if each.at is not None]
    return max(times, default=step.started) + timedelta(seconds=step.analysis.interval.seconds)


def plan(step: Step, metrics: InForce, recorded: Iterable[MetricStatus], default_url: str, now: datetime) -> Ask | None:
    """Return the queries of the round that is due now; None before its time."""
    if metrics.problem or now < due_at(step, recorded):
        return None
    server = step.analysis.prometheus
    elapsed = _seconds(step.started, now)
    asked: dict[str, str] = {}
    problems: dict[str, str] = {}
    for each in metrics.metrics:
        window = _seconds(step.begin(each), now)
        if window < 1 or not_applicable(step, each):
            continue
        try:
            asked |= {key(each.metric.name, name): text for name, text in _queries(step, each, window).items()}
        except TemplateProblem as error:
            problems[each.metric.name] = str(error)
    whole = step.scope(max(1, elapsed))
    asked[REQUESTS] = requests_query(whole, whole.window)
    asked[RECENT] = requests_query(whole, min(max(1, elapsed), recent_seconds(step)))
    asked[SERVING_AGE] = serving_age_query(whole)
    if any(_judged(each) for each in metrics.metrics):
        asked[JUDGE_AGE] = judge_age_query(whole)
    secret = server.secret_ref.name if server is not None and server.secret_ref is not None else ""
    return Ask(step, str(server.url) if server is not None else default_url, secret, asked, problems)


def key(metric: str, count: str) -> str:
    """Return the name of one query: of a metric, and what it counts."""
    return f"{metric}|{count}"


def recent_seconds(step: Step) -> int:
    """Return the time without a request after which traffic has stopped."""
    return max(RECENT_SECONDS, round(RECENT_ROUNDS * step.analysis.interval.seconds))


def not_applicable(step: Step, measured: Measured) -> str:
    """Return why a metric measures nothing in this step; empty when it does."""
    signal = signal_of(measured.metric)
    if signal is None:
        return ""
    if signal.paired and step.traffic.mirror == 0:
        return "pairs need a mirror, which this step has not"
    if (signal.limit.ratio is not None or signal.kind is Kind.WIN_OF_MEANS) and not step.stable_live:
        return "stable has no live traffic to compare with"
    if signal.users_only and not step.candidate_live:
        return "only users tell, and none gets the candidate's answers yet"
    return ""


def _judged(measured: Measured) -> bool:
    signal = signal_of(measured.metric)
    return signal is not None and signal.judged


def _queries(step: Step, measured: Measured, window: int) -> dict[str, str]:
    metric = measured.metric
    signal = signal_of(metric)
    if signal is not None:
        found = queries(signal, step.scope(window), metric.slice)
        if step.stable_live:
            return found
        return {name: text for name, text in found.items() if not name.startswith("stable/")}
    if metric.query is None:
        return {}
    values = TemplateValues(
        candidate=step.traffic.candidate,
        stable=step.traffic.stable,
        window=f"{window}s",
        namespace=step.owner.namespace,
        name=step.owner.name,
        args=measured.args,
    )
    return {VALUE: render(metric.query.value, values), SAMPLES: render(metric.query.samples, values)}


def _seconds(since: datetime, now: datetime) -> int:
    return int((now - since).total_seconds())

"""What is written for a decision, and in which order: route, records, then pods; removals last. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.intents import Delete, Manifest
from rlhf_operator.common.podtemplate import TemplateConflict
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    HTTPROUTES,
    PDBS,
    SCALEDOBJECTS,
    SERVICES,
)
from rlhf_operator.common.times import format_time

from . import judging, live
from .children import deployment, stable_service
from .decision import Decision, Need
from .live import Scorers
from .look import Look
from .route import http_route
from .scaling import scaled_object
from .views import Observed, Revision

_RESOURCES = {
    each.kind: each
    for each in (CONFIGMAPS, CONTROLLERREVISIONS, DEPLOYMENTS, HTTPROUTES, PDBS, SCALEDOBJECTS, SERVICES)
}


@dataclass(frozen=True, slots=True)
class Writes:
    """The part of a plan that is not status."""

    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    delete: tuple[Delete, ...] = ()
    problem: str = ""
    """Why the judge's pods can't be made as the spec asks."""
    holds: bool = False
    """Whether a dry run got no answer: it is asked for again."""


@dataclass(slots=True)
class _Judge:
    apply: list[Manifest] = field(default_factory=list)
    wanted: bool = False
    url: str | None = None
    problem: str = ""
    holds: bool = False


def writes(look: Look, spec: PolicyRolloutSpec, decision: Decision, scorers: Scorers) -> Writes:
    """Return everything that one decision makes.

    The route comes before everything: what fails must lose its traffic even when nothing else can be written. A weight
    rises only when the pods of it are ready: they were written in a look before.
    """
    observed = look.observed
    judge = _judge(look, spec, scorers)
    settings = live.signal_settings(spec, look.metrics, judge.url)
    apply: list[Manifest] = [*_traffic(observed, spec, decision), *look.orphans]
    if decision.record and observed.wanted.rendered is not None:
        apply.append(observed.wanted.rendered)
    apply.append(judging.signals_config_map(observed.owner, settings))
    apply += judge.apply
    for revision, need in decision.needed.items():
        known = observed.revisions.get(revision)
        if known is not None:
            apply += _pods(look, spec, known, need)
    return Writes(
        apply=tuple(apply),
        create=(look.keys,) if look.keys is not None else (),
        delete=tuple(_spare(look, decision, judge)),
        problem=judge.problem,
        holds=judge.holds,
    )


def can_scale(observed: Observed) -> bool:
    """Whether an autoscaler can be given anything."""
    return observed.keda and bool(observed.defaults.prometheus_url)


def _traffic(observed: Observed, spec: PolicyRolloutSpec, decision: Decision) -> Iterator[Manifest]:
    traffic = decision.traffic
    if traffic is not None:
        if observed.gateway_api:
            yield http_route(observed.owner, spec, traffic)
        yield stable_service(observed.owner, traffic.stable)
    elif observed.route is None and len(decision.needed) == 1:
        # The first revision: nobody loses anything, and names get known while its pods start.
        yield stable_service(observed.owner, next(iter(decision.needed)))


def _pods(look: Look, spec: PolicyRolloutSpec, revision: Revision, need: Need) -> Iterator[Manifest]:
    observed = look.observed
    trajectories = spec.logging.trajectories if spec.logging is not None else None
    sink = trajectories.sink if trajectories is not None else None
    idle = format_time(need.idle_since) if need.idle_since is not None else None
    scales = need.autoscale is not None and need.replicas > 0 and can_scale(observed)
    for each in revision.objects:
        if each["kind"] != DEPLOYMENTS.kind:
            yield each
            continue
        yield deployment(each, _replicas(look, revision.name, need, scales=scales), idle, sink)
    if scales and need.autoscale is not None and spec.serving.autoscaling is not None:
        prometheus = observed.defaults.prometheus_url
        yield scaled_object(observed.owner, revision.name, spec.serving.autoscaling, need.autoscale, prometheus)


def _replicas(look: Look, revision: str, need: Need, *, scales: bool) -> int:
    """Return the number of pods. What the autoscaler has set stays: we would only fight it."""
    found = look.observed.pods.get(revision)
    if not scales or found is None or revision not in look.scaled or need.autoscale is None:
        return need.replicas
    return found.replicas if found.replicas >= need.autoscale[0] else need.replicas


def _judge(look: Look, spec: PolicyRolloutSpec, scorers: Scorers) -> _Judge:
    """Return the live judge's objects; while its RewardModels can't be used, it is left as it is."""
    observed, owner = look.observed, look.observed.owner
    result = _Judge(wanted=bool(live.judged(look.metrics)) or bool(look.metrics.problem))
    plan = live.judge_plan(owner, look.metrics, scorers, look.models)
    pods = look.judge
    if pods is not None and result.wanted:
        result.url = judging.judge_url(owner)
    if plan is None:
        return result
    if pods is None or pods.key != judging.judge_key(spec.judge):
        if look.judge_refused is None:
            result.holds = True
            return result
        try:
            if look.judge_refused:
                raise TemplateConflict(look.judge_refused)
            pods = judging.render_judge(owner, spec.judge, observed.defaults)
        except (TemplateConflict, ValueError) as error:
            result.problem = f"the judge's pods can't be made as the spec asks: {error}"
            if pods is None:
                return result
    result.url = judging.judge_url(owner)
    result.apply += [
        judging.judge_config_map(owner, plan, pods),
        judging.judge_service(owner),
        judging.judge_deployment(pods, spec.judge.replicas, plan),
        judging.judge_budget(owner),
    ]
    return result


def _spare(look: Look, decision: Decision, judge: _Judge) -> Iterator[Delete]:
    """Yield what goes: revisions that nobody needs, autoscalers that decide nothing, a judge without work."""
    observed = look.observed
    scaled = {
        revision
        for revision, need in decision.needed.items()
        if need.autoscale is not None and need.replicas > 0 and can_scale(observed)
    }
    judge_name = judging.judge_name(observed.owner.name)
    for kind, name, uid, revision in observed.children:
        gone = revision in decision.removed if revision else not judge.wanted and name == judge_name
        idle = kind == SCALEDOBJECTS.kind and revision not in scaled
        if gone or idle:
            yield Delete(_RESOURCES[kind], observed.owner.namespace, name, uid, "Background")

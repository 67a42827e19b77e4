"""How many pods each revision needs, which weight those that are ready carry, and which pods go when. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.rolloutstrategy import Capacity

from .decision import Need
from .history import promoted, rejection_of
from .steps import headers_of, ladder, locate, mirror_of, weight_at
from .views import PROMOTE, ROLLBACK, STARTING, Observed, Pods, RouteView, Traffic, Trouble

NO_PODS = Pods(revision="", uid="", replicas=0, ready=0)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The pods that are asked for, the revisions that go, and when the next pods are due to go."""

    needed: Mapping[str, Need]
    removed: frozenset[str] = frozenset()
    wake_at: datetime | None = None


def whole(observed: Observed, spec: PolicyRolloutSpec, stable: str) -> int:
    """Return the number of pods that carry all traffic: as many as stable has now, where an autoscaler decides."""
    scaling = spec.serving.autoscaling
    if scaling is None:
        return spec.serving.replicas
    found = observed.pods.get(stable)
    if found is not None and found.scaled_by_others and spec.strategy.capacity is not Capacity.REPLACE:
        return max(scaling.min, min(found.replicas, scaling.max))
    return max(scaling.min, min(spec.serving.replicas, scaling.max))


def share(weight: int, count: int) -> int:
    """Return how many of `count` pods carry `weight` percent of what all of them carry."""
    return -(-weight * count // 100)


def pods_for(weight: int, count: int, capacity: Capacity) -> int:
    """Return how many of the candidate's pods must be ready before it gets `weight` percent."""
    if capacity is Capacity.FULL:
        return count
    return max(1, _reachable(share(weight, count), count, capacity))


def carries(ready: int, weight: int, count: int, capacity: Capacity) -> bool:
    """Whether the pods that are ready can keep `weight` percent."""
    return ready >= _reachable(share(weight, count), count, capacity)


def _reachable(wanted: int, count: int, capacity: Capacity) -> int:
    # With Replace the last pods come when stable gives up its own: at promotion.
    return min(wanted, max(1, count - 1)) if capacity is Capacity.REPLACE else wanted


def skips_steps(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic) -> bool:
    """Whether the candidate was promoted so lately that it needs no steps."""
    window = promoted(observed.status.history, traffic.stable)[: spec.strategy.rollback_window]
    return traffic.candidate in window


def first_index(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic) -> int:
    """Return the stage that follows when the candidate's pods are ready: behind the last step if it needs none."""
    return len(spec.strategy.steps) if skips_steps(observed, spec, traffic) else 0


def target(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic) -> int:
    """Return the weight that the candidate's pods are prepared for."""
    steps = spec.strategy.steps
    place = locate(traffic, steps)
    if place.name in (PROMOTE, ROLLBACK):
        return 100
    if place.name == STARTING:
        index = first_index(observed, spec, traffic)
        return weight_at(steps, index) if index < len(steps) else 100
    return traffic.goal


def prepared(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic) -> bool:
    """Whether the candidate's pods are ready for what comes next."""
    pods = observed.pods.get(traffic.candidate, NO_PODS)
    return pods.settled and pods.ready >= wanted_pods(observed, spec, traffic)


def wanted_pods(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic) -> int:
    """Return how many pods the candidate needs."""
    count = whole(observed, spec, traffic.stable)
    return pods_for(max(target(observed, spec, traffic), traffic.weight), count, spec.strategy.capacity)


def carried(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic, *, mirrors: bool) -> Traffic:
    """Return the traffic of a stage as far as the candidate's pods carry it now.

    While too few are ready the candidate gets the weight of an earlier step, and nothing at all while none is.
    """
    place = locate(traffic, spec.strategy.steps)
    pods = observed.pods.get(traffic.candidate, NO_PODS)
    if pods.ready < 1 or place.name in (STARTING, ROLLBACK):
        return replace(traffic, weight=0, mirror=0, headers=())
    count, capacity = whole(observed, spec, traffic.stable), spec.strategy.capacity
    goal = replace(traffic, weight=traffic.goal, mirror=mirror_of(place) if mirrors else 0, headers=headers_of(place))
    if traffic.weight < traffic.goal:
        enough = pods.settled and pods.ready >= pods_for(traffic.goal, count, capacity)
    else:
        enough = carries(pods.ready, traffic.goal, count, capacity)
    return goal if enough else replace(goal, weight=_rung(spec, traffic, pods.ready, count))


def _rung(spec: PolicyRolloutSpec, traffic: Traffic, ready: int, count: int) -> int:
    rungs = {*ladder(spec.strategy.steps, traffic.goal), traffic.weight}
    capacity = spec.strategy.capacity
    return max(rung for rung in rungs if rung <= traffic.weight and carries(ready, rung, count, capacity))


def fleet(observed: Observed, spec: PolicyRolloutSpec, after: Traffic | None, now: datetime) -> Fleet:
    """Return the pods of every revision while the route is as it is stored, and `after` is about to be written.

    Pods are taken away only when the gateway has accepted a route that sends them nothing.
    """
    before = observed.route.traffic if observed.route is not None else None
    serving = {each for one in (before, after) if one is not None for each in (one.stable, one.candidate) if each}
    if after is None:
        serving |= _coming(observed)
    needed: dict[str, Need] = {}
    wakes: list[datetime] = []
    for revision in sorted(serving):
        needed[revision] = _serving(observed, spec, before, after, revision)
    for revision in sorted(observed.pods.keys() - serving):
        need, wake = _idle(observed, spec, observed.pods[revision], now)
        needed[revision] = need
        wakes += [wake] if wake is not None else []
    removed = frozenset[str]() if after is None else _spare(observed, spec, after, needed)
    kept = {revision: need for revision, need in needed.items() if revision not in removed}
    return Fleet(kept, removed, min(wakes, default=None))


def _coming(observed: Observed) -> set[str]:
    """Return the revisions that come up while there is no route: what is wanted, and what served before."""
    from_status = {each.revision for each in observed.status.variants if each.revision and each.name == "Stable"}
    return {each for each in (observed.wanted.revision, *from_status) if each and each in observed.revisions}


def _serving(
    observed: Observed, spec: PolicyRolloutSpec, before: Traffic | None, after: Traffic | None, revision: str
) -> Need:
    pods = observed.pods.get(revision, NO_PODS)
    scaling = spec.serving.autoscaling
    replacing = spec.strategy.capacity is Capacity.REPLACE
    current = after or before
    if current is None or (revision == current.stable and not (replacing and current.candidate)):
        return _whole(observed, spec, current, revision, pods)
    counts = [_count(observed, spec, one, revision) for one in (before, after) if one is not None]
    # What leaves the route keeps its pods until the gateway has let go of them.
    count = max((each for each in counts if each is not None), default=pods.replicas)
    if revision != current.stable and revision != current.candidate:
        return Need(max(pods.replicas, 0))
    if scaling is not None and not replacing:
        return Need(max(count, pods.replicas) if pods.scaled_by_others else count, (count, max(count, scaling.max)))
    return Need(count)


def _count(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic, revision: str) -> int | None:
    if revision == traffic.candidate:
        return wanted_pods(observed, spec, traffic)
    if revision == traffic.stable:
        count = whole(observed, spec, traffic.stable)
        return max(1, count - wanted_pods(observed, spec, traffic)) if traffic.candidate else count
    return None


def _whole(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic | None, revision: str, pods: Pods) -> Need:
    """Return the pods of a revision that carries everything, or must be able to at any moment."""
    scaling = spec.serving.autoscaling
    count = whole(observed, spec, revision)
    if scaling is None:
        return Need(count)
    # While a candidate takes load away, the autoscaler must not take the pods that it may have to give it back to.
    held = traffic is not None and bool(traffic.candidate)
    least = count if held else scaling.min
    return Need(pods.replicas if pods.scaled_by_others else count, (least, max(least, scaling.max)))


def _idle(observed: Observed, spec: PolicyRolloutSpec, pods: Pods, now: datetime) -> tuple[Need, datetime | None]:
    """Return the pods of a revision without traffic: as many as it has, and none after the delay."""
    since = min(pods.idle_since, now) if pods.idle_since is not None else None
    if since is None:
        if not _released(observed.route):
            return Need(pods.replicas), None
        since = now
    traffic = observed.route.traffic if observed.route is not None else None
    cut = spec.on_failure.cut_streams and traffic is not None and rejection_of(traffic, pods.revision) is not None
    stuck = pods.ready == 0 and pods.trouble is Trouble.INFRASTRUCTURE
    due = since + (timedelta() if cut or stuck else spec.strategy.scale_down_delay.timedelta)
    if pods.replicas == 0 or now >= due:
        return Need(0, idle_since=since), None
    return Need(pods.replicas, idle_since=since), due


def _released(route: RouteView | None) -> bool:
    """Whether the gateway follows a route of which it is known whom it sends nothing."""
    return route is None or (route.accepted is True and route.traffic is not None)


def _spare(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic, needed: Mapping[str, Need]) -> frozenset[str]:
    """Return the revisions beyond the number that is kept, once they have no pods."""
    in_use = {traffic.stable, traffic.candidate, observed.wanted.revision}
    before = observed.route.traffic if observed.route is not None else None
    if before is not None:
        in_use |= {before.stable, before.candidate}
    formers = promoted(observed.status.history, traffic.stable)
    others = sorted(
        observed.revisions.keys() - set(formers), key=lambda name: observed.revisions[name].number, reverse=True
    )
    ranked = [name for name in (*formers, *others) if name not in in_use]
    kept = {*ranked[: spec.revision_history_limit], *formers[: spec.strategy.rollback_window]}
    known: Iterable[str] = {*observed.revisions, *observed.pods}
    return frozenset(
        name
        for name in known
        if name not in in_use and name not in kept and _empty(observed.pods.get(name), needed.get(name))
    )


def _empty(pods: Pods | None, need: Need | None) -> bool:
    return pods is None or (pods.replicas == 0 and pods.ready == 0 and (need is None or need.replicas == 0))

"""A small cluster for decide(): a route, a gateway, pods and a status, each of which may lag, refuse or be lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.names import Owner
from rlhf_operator.common.times import format_time
from rlhf_operator.policyrollout import recorded
from rlhf_operator.policyrollout.decision import Decision, Gate, GateState, Need
from rlhf_operator.policyrollout.progress import decide
from rlhf_operator.policyrollout.views import (
    Command,
    Observed,
    Pods,
    Revision,
    RouteView,
    Support,
    Traffic,
    Trouble,
    Wanted,
)

OWNER = Owner("PolicyRollout", "team", "assistant", "uid-1")
BEGIN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
ANALYSIS = {"metrics": [{"name": "errors", "preset": {"errorRate": {"max": 0.01}}}]}
STEPS: list[dict[str, Any]] = [
    {"name": "shadow", "mirror": {"percent": 20}, "hold": {"minimum": "1m"}},
    {"name": "staff", "match": {"headers": [{"name": "x-group", "value": "staff"}]}, "hold": {"minimum": "1m"}},
    {"name": "ten", "weight": 10, "mirror": {"percent": 10}, "hold": {"minimum": "2m"}},
    {"name": "sign-off", "approval": {}},
    {"name": "half", "weight": 50, "hold": {"minimum": "2m"}},
]


def spec_of(**changes: Any) -> dict[str, Any]:
    """A spec as a user writes it; changes go into strategy, serving, onFailure or the spec's own fields."""
    spec: dict[str, Any] = {
        "model": {"artifact": {"pvc": {"claimName": "models", "path": "a"}, "digest": f"sha256:{'a' * 64}"}},
        "serving": {"replicas": 4, "drainTimeout": "1m"},
        "route": {"parentRefs": [{"name": "public"}]},
        "strategy": {"steps": STEPS, "bake": "5m", "scaleDownDelay": "10m", "progressDeadline": "30m"},
        "analysis": ANALYSIS,
    }
    for name, value in changes.items():
        spec[name] = {**spec.get(name, {}), **value} if isinstance(value, dict) and name != "analysis" else value
    if spec["analysis"] is None:
        del spec["analysis"]
    return spec


def revision(name: str, number: int) -> Revision:
    """A revision on record."""
    return Revision(name, f"sha256:{name}", f"pvc://models/{name}", number, f"uid-{name}", ())


@dataclass
class World:
    """Everything around one PolicyRollout. Its methods are what the API server, the kubelet and the gateway do."""

    spec: dict[str, Any] = field(default_factory=spec_of)
    now: datetime = BEGIN
    generation: int = 1
    wanted: Wanted = field(default_factory=Wanted)
    revisions: dict[str, Revision] = field(default_factory=dict)
    pods: dict[str, Pods] = field(default_factory=dict)
    route: Traffic | None = None
    route_generation: int = 0
    accepted: bool | None = None
    gateway: Traffic | None = None
    """What the data plane does: the route that was last accepted."""
    prunes: bool = False
    """Whether the CRD prunes the mirror's percentage."""
    support: Support = Support.UNKNOWN
    status: dict[str, Any] = field(default_factory=dict)
    command: Command | None = None
    commands: int = 0
    events: list[tuple[str, str]] = field(default_factory=list)
    left: dict[str, datetime] = field(default_factory=dict)
    """When the gateway last stopped sending requests to a revision."""

    # -- what is seen

    def observe(self) -> Observed:
        """What the operator reads."""
        route = None
        if self.route is not None:
            stored = self.route.mirror
            route = RouteView(
                uid="route",
                generation=self.route_generation,
                traffic=self.route,
                accepted=self.accepted,
                refused=self.accepted is False,
                words="" if self.accepted is not False else "the gateway refuses",
                stored_mirror=100 if stored and self.prunes else stored,
            )
        return Observed(
            owner=OWNER,
            generation=self.generation,
            spec=PolicyRolloutSpec.model_validate(self.spec),
            status=PolicyRolloutStatus.model_validate(self.status),
            raw_status=self.status,
            defaults=OperatorDefaults(trainer_image="trainer"),
            wanted=self.wanted,
            revisions=dict(self.revisions),
            pods=dict(self.pods),
            route=route,
            command=self.command,
            mirror_support=self.support,
        )

    def decide(self, gate: Gate | None = None) -> Decision:
        """One look."""
        return decide(self.observe(), gate if "analysis" in self.spec else None, self.now)

    def look(self, gate: Gate | None = None, writes: int = 100) -> Decision:
        """One look, and its first `writes` writes: the operator may die after any of them."""
        decision = self.decide(gate)
        self.execute(decision, writes)
        return decision

    def settle(self, gate: Gate | None = None, limit: int = 30) -> None:
        """Look until nothing changes."""
        for _ in range(limit):
            before = self.snapshot()
            self.look(gate)
            if self.snapshot() == before:
                return
        raise AssertionError(f"no rest after {limit} looks: {self.route}")

    def snapshot(self) -> tuple[Any, ...]:
        """Everything that writes can change."""
        status = {name: value for name, value in self.status.items() if name != "message"}
        return (repr(status), repr(self.route), repr(sorted(self.pods.items())), repr(sorted(self.revisions)))

    # -- what the API server does

    def execute(self, decision: Decision, writes: int = 100) -> None:
        """Write in the order that is promised: revision, route, pods, status."""
        for write in self._writes(decision)[:writes]:
            write()

    def _writes(self, decision: Decision) -> list[Any]:
        made: list[Any] = []
        wanted = self.wanted
        if decision.record and wanted.revision is not None:
            made.append(lambda: self._record(str(wanted.revision)))
        if decision.traffic is not None and decision.traffic != self.route:
            made.append(lambda: self.write_route(decision.traffic))
        for name, need in decision.needed.items():
            made.append(lambda name=name, need=need: self.write_pods(name, need))
        made += [lambda name=name: self._remove(name) for name in sorted(decision.removed)]
        made.append(lambda: self._write_status(decision))
        return made

    def _record(self, name: str) -> None:
        number = 1 + max((each.number for each in self.revisions.values()), default=0)
        self.revisions[name] = revision(name, number)
        self.wanted = replace(self.wanted, rendered=None)

    def write_route(self, traffic: Traffic | None) -> None:
        """The route is stored; the gateway follows later."""
        self.route = traffic
        self.route_generation += 1
        self.accepted = None

    def write_pods(self, name: str, need: Need) -> None:
        """A Deployment is applied, and its autoscaler's bounds."""
        found = self.pods.get(name)
        if name not in self.revisions and found is None:
            return
        if found is None:
            self.pods[name] = Pods(name, f"uid-{name}", need.replicas, 0, settled=False, created_at=self.now)
            return
        scaled, count = found.scaled_by_others and need.autoscale is not None, need.replicas
        if scaled and need.autoscale is not None:
            count = max(need.autoscale[0], min(found.replicas, need.autoscale[1]))
        self.pods[name] = replace(
            found,
            replicas=count,
            ready=min(found.ready, count),
            idle_since=need.idle_since,
            settled=found.settled and found.replicas == count,
            scaled_by_others=scaled,
        )

    def _remove(self, name: str) -> None:
        self.revisions.pop(name, None)
        self.pods.pop(name, None)

    def _write_status(self, decision: Decision) -> None:
        traffic, before = decision.traffic, self.status
        variants = []
        if traffic is not None:
            variants.append(_variant("Stable", traffic.stable, 100 - traffic.weight, 0, decision.stable_since))
            if traffic.candidate:
                since = decision.candidate_since
                variants.append(_variant("Candidate", traffic.candidate, traffic.weight, traffic.mirror, since))
        rejected = traffic.rejected if traffic is not None else None
        self.status = {
            "observedGeneration": self.generation,
            "variants": variants or before.get("variants", []),
            "step": decision.step.model_dump(mode="json", by_alias=True) if decision.step else None,
            "conditions": _paused(decision),
            "rejected": [
                {"revision": each.revision, "reason": each.reason, "message": each.message, "at": format_time(each.at)}
                for each in rejected
            ]
            if rejected is not None
            else before.get("rejected", []),
            "history": [each.model_dump(mode="json", by_alias=True) for each in decision.history],
            "lastCommand": decision.consumed.model_dump(mode="json", by_alias=True) if decision.consumed else None,
        }
        self.events += [(each.reason, each.message) for each in decision.events]

    # -- what others do

    def want(self, name: str) -> None:
        """The spec asks for another revision."""
        self.generation += 1
        self.wanted = Wanted(name, rendered=None if name in self.revisions else {"metadata": {"name": name}})

    def change(self, **changes: Any) -> None:
        """The spec changes otherwise."""
        self.generation += 1
        for name, value in changes.items():
            self.spec = {**self.spec, name: {**self.spec.get(name, {}), **value}}

    def later(self, **span: float) -> None:
        """Time passes."""
        self.now += timedelta(**span)

    def accept(self, accepted: bool | None = True) -> None:
        """The gateway looks at the route."""
        self.accepted = accepted
        if accepted and self.route is not None:
            before, self.gateway = self.gateway, self.route
            for name in receives(before) - receives(self.gateway):
                self.left[name] = self.now

    def come_up(self, name: str | None = None, ready: int | None = None) -> None:
        """Pods become what is asked for: all, or so many."""
        for each in list(self.pods) if name is None else [name]:
            pods = self.pods[each]
            count = pods.replicas if ready is None else min(ready, pods.replicas)
            self.pods[each] = replace(pods, ready=count, settled=True, trouble=Trouble.NONE, words="", restarts=0)

    def trouble(self, name: str, trouble: Trouble, ready: int = 0, words: str = "") -> None:
        """Pods are not ready."""
        pods = self.pods[name]
        self.pods[name] = replace(pods, ready=min(ready, pods.replicas), trouble=trouble, words=words, settled=True)

    def say(self, verb: str, revision: str = "", step: str = "", user: str = "alice") -> None:
        """A person gives a command; by default about what is under way."""
        self.commands += 1
        route = self.route or Traffic("")
        revision, step = revision or route.candidate or "-", step or route.step or "-"
        self.command = Command(f"c{self.commands}", verb, revision, step, user, verified=True)

    # -- shorthand

    @property
    def history(self) -> list[dict[str, Any]]:
        """Ended rollouts."""
        return list(self.status.get("history", []))

    @property
    def paused(self) -> str:
        """The reason of the pause, or nothing."""
        found = self.status.get("conditions") or [{"reason": ""}]
        return str(found[0]["reason"])

    @property
    def clock_runs(self) -> bool:
        """Whether the stage under way has begun."""
        status = PolicyRolloutStatus.model_validate(self.status)
        return self.route is not None and recorded.clock(status, self.route, self.now) is not None

    def serve(self, name: str = "r1") -> World:
        """The first revision comes up and gets everything."""
        self.want(name)
        self.settle()
        self.come_up()
        self.settle()
        self.accept()
        self.settle()
        return self

    def enter(self, step: str, candidate: str = "r2") -> World:
        """A candidate goes up to a step, whose clock runs."""
        self.want(candidate)
        for _ in range(60):
            self.settle()
            if step != "starting":
                self.come_up()
                self.accept()
            self.settle()
            assert self.route is not None
            if self.route.step == step and self.clock_runs:
                return self
            if self.route.step == "sign-off":
                self.say("approve")
                self.look()
                continue
            self.later(minutes=10)
            self.look(Gate(GateState.ADVANCE))
        raise AssertionError(f"{candidate} does not come to {step}: {self.route}")


def receives(traffic: Traffic | None) -> set[str]:
    """Revisions that get any requests."""
    if traffic is None:
        return set()
    found = {traffic.stable} if traffic.weight < 100 else set()
    if traffic.candidate and (traffic.weight or traffic.mirror or traffic.headers):
        found.add(traffic.candidate)
    return found


def _paused(decision: Decision) -> list[dict[str, Any]]:
    pause = decision.paused
    if pause is None:
        return []
    return [{"type": "Paused", "status": "True", "reason": pause.reason, "message": pause.message}]


def _variant(name: str, revision: str, weight: int, mirror: int, since: datetime | None) -> dict[str, Any]:
    return {
        "name": name,
        "revision": revision,
        "weight": weight,
        "mirrorPercent": mirror,
        "since": format_time(since) if since is not None else None,
    }

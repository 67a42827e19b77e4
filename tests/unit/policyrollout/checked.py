"""A cluster that holds every write of a rollout against what must never happen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus
from rlhf_operator.policyrollout import recorded
from rlhf_operator.policyrollout.capacity import whole
from rlhf_operator.policyrollout.decision import Decision, Gate, GateState, Need
from rlhf_operator.policyrollout.steps import locate
from rlhf_operator.policyrollout.views import STARTING, Support, Traffic

from .world import World, receives

WAIT = Gate(GateState.WAIT, words="measuring")
ADVANCE = Gate(GateState.ADVANCE)
FAILED = Gate(GateState.FAILED, words="ErrorRate 0.05 over 0.01")
FOUND = ("FirstRevision", "Adopted")
PERSONS = ("promote", "rollback")


class Checked(World):
    """A world that holds every write against what must never happen."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate | None = None
        self.decision: Decision | None = None
        self.open: str | None = None
        """The candidate under way by the route's writes."""
        self.ended: list[str] = []
        """Candidates that left the route, in this order."""
        self.stage_since: datetime | None = None
        """When the gateway first carried what the stage under way asks for."""
        self.jumped = False
        """Whether the clock went back: spans can't be held against it any more."""

    @property
    def strategy(self) -> Any:
        """The strategy in force."""
        return PolicyRolloutSpec.model_validate(self.spec).strategy

    def want_nothing(self) -> None:
        """The source has nothing to give."""
        self.generation += 1
        self.wanted = type(self.wanted)(None, reason="SourceNotPublished", message="waits for a job")

    def lose_route(self) -> None:
        """Somebody deletes it: what was not recorded of it is lost with it."""
        if self.route is None:
            return
        status = PolicyRolloutStatus.model_validate(self.status)
        self.open = recorded.candidate_of(status) or None
        self.ended = [each["revision"] for each in reversed(self.history) if each["reason"] not in FOUND]
        self.route, self.accepted, self.gateway = None, None, None

    def lose_status(self) -> None:
        """The object is deleted with --cascade=orphan, and made again."""
        self.status, self.ended = {}, []
        self.open = (self.route.candidate or None) if self.route is not None else None

    def autoscale(self, name: str, replicas: int) -> None:
        """The autoscaler asks for another number, within the bounds that it was last given."""
        need = self.decision.needed.get(name) if self.decision is not None else None
        if need is None or need.autoscale is None:
            return
        count = max(need.autoscale[0], min(replicas, need.autoscale[1]))
        pods = self.pods[name]
        self.pods[name] = replace(
            pods, replicas=count, scaled_by_others=True, ready=min(count, pods.ready), settled=False
        )

    def look(self, gate: Gate | None = None, writes: int = 100) -> Decision:
        gate = gate or WAIT
        if "analysis" not in self.spec or not self.clock_runs:
            gate = WAIT
        self.gate = gate
        self.decision = self.decide(gate)
        self._failed_leaves(self.decision)
        self._carried(self.decision.traffic)
        self.execute(self.decision, writes)
        return self.decision

    def _failed_leaves(self, decision: Decision) -> None:
        """After Failed the very next write of the route takes everything away."""
        before, after = self.route, decision.traffic
        if self.gate is not FAILED or before is None or self.spec["onFailure"]["action"] != "Rollback":
            return
        place = locate(before, self.strategy.steps)
        if place.has_traffic and before.candidate:
            assert after is not None
            assert (after.candidate, after.weight, after.mirror, after.headers) == ("", 0, 0, ())
            assert before.candidate in {each.revision for each in after.rejected}

    def _carried(self, after: Traffic | None) -> None:
        """No look leaves more with a candidate than its ready pods carry."""
        status = PolicyRolloutStatus.model_validate(self.status)
        if after is None or not after.candidate or self.route is None or not recorded.agrees(status, self.route):
            return
        ready = self.pods[after.candidate].ready if after.candidate in self.pods else 0
        assert ready >= self._enough(after.weight)
        if not ready:
            assert (after.weight, after.mirror, after.headers) == (0, 0, ())

    def _enough(self, weight: int) -> int:
        """How many pods carry a weight, when as many as stable has carry everything."""
        spec = PolicyRolloutSpec.model_validate(self.spec)
        count = whole(self.observe(), spec, self.route_stable)
        most = max(1, count - 1) if self.strategy.capacity == "Replace" else count
        return min(most, math.ceil(count * weight / 100))

    def write_route(self, traffic: Traffic | None) -> None:
        assert traffic is not None
        before = self.route
        self._shape(traffic)
        if before is not None:
            self._weights(before, traffic)
            self._rejected(before, traffic)
        assert self._ready(traffic.stable) or (before is not None and before.stable == traffic.stable)
        super().write_route(traffic)
        if before is None or _stage(before) != _stage(traffic):
            self.stage_since = None
        if self.open is not None and traffic.candidate != self.open:
            self.ended.append(self.open)
        self.open = traffic.candidate or None

    @staticmethod
    def _shape(traffic: Traffic) -> None:
        assert 0 <= traffic.weight <= traffic.goal <= 100
        assert 0 <= traffic.mirror <= 100
        assert traffic.stable
        assert traffic.stable != traffic.candidate
        if not traffic.candidate:
            assert (traffic.weight, traffic.mirror, traffic.headers, traffic.step) == (0, 0, (), "")

    def _ready(self, name: str) -> bool:
        return name in self.pods and self.pods[name].ready > 0

    def _weights(self, before: Traffic, after: Traffic) -> None:
        same = before.candidate == after.candidate
        held = (before.weight, before.mirror, before.headers) if same else (0, 0, ())
        more = after.weight > held[0] or after.mirror > held[1] or (after.headers and after.headers != held[2])
        if after.candidate and more:
            assert self._ready(after.candidate), "traffic for a revision without a ready pod"
        if after.stable != before.stable:
            assert self.pods[after.stable].ready >= max(1, self._enough(100))
            assert after.stable == before.candidate
            told = self._told("promote", "rollback") or before.step in PERSONS
            assert told or (before.step == "bake" and self._may_advance(before) and self._held(before))
        if after.candidate and not same:
            assert (after.weight, after.mirror, after.headers) == (0, 0, ())
        if same and after.goal > before.goal:
            assert before.step == STARTING or self._may_advance(before) or self._told("approve")
        if same and after.step != before.step:
            assert before.step == STARTING or self._may_advance(before) or self._told("approve", "promote")
        if same and before.step != STARTING and after.step != before.step:
            assert after.index <= locate(before, self.strategy.steps).index + 1 or after.step == "promote"
            assert self._told("approve", "promote") or self._held(before)
        if same and before.step == STARTING and after.step not in (STARTING, "promote"):
            assert after.index == 0 or after.candidate in self._lately_promoted(before.stable)
            all_first = self.strategy.capacity == "Full"
            assert self.pods[after.candidate].ready >= self._enough(100 if all_first else after.goal)

    def _lately_promoted(self, stable: str) -> list[str]:
        names = [each["revision"] for each in self.history if each["outcome"] == "Promoted"]
        return list(dict.fromkeys(name for name in names if name != stable))[: self.strategy.rollback_window]

    def _held(self, before: Traffic) -> bool:
        """Whether a stage was in force, and without analysis as long as it is held."""
        if self.stage_since is None:
            return False
        if "analysis" in self.spec or self.jumped:
            return True
        step = next((each for each in self.strategy.steps if each.name == before.step), None)
        hold = step.hold.minimum.seconds if step is not None and step.hold is not None else 0
        if before.step == "bake":
            hold = self.strategy.bake.seconds
        return self.now - self.stage_since >= timedelta(seconds=hold)

    def accept(self, accepted: bool | None = True) -> None:
        super().accept(accepted)
        if accepted and self.stage_since is None:
            self.stage_since = self.now

    def _may_advance(self, before: Traffic) -> bool:
        if "analysis" in self.spec:
            return self.gate is ADVANCE
        return self.clock_runs and before.step != STARTING

    def _told(self, *verbs: str) -> bool:
        done = self.decision is not None and self.decision.consumed is not None
        return done and self.command is not None and self.command.verb in verbs

    def _rejected(self, before: Traffic, after: Traffic) -> None:
        was, now = ({each.revision for each in one.rejected} for one in (before, after))
        if was - now:
            assert self._told("retry", "rollback", "abort"), f"{was - now} forgotten"
        if after.candidate != before.candidate and after.candidate in was:
            assert self._told("retry", "rollback"), "a rejected revision came back by itself"

    def write_pods(self, name: str, need: Need) -> None:
        before = self.pods.get(name)
        super().write_pods(name, need)
        after = self.pods.get(name)
        if before is None or after is None or after.replicas >= before.replicas:
            return
        wanted = whole(self.observe(), PolicyRolloutSpec.model_validate(self.spec), name)
        replaces = self.strategy.capacity == "Replace"
        if name in receives(self.route) | receives(self.gateway) or (self.route and name == self.route.stable):
            assert replaces or after.replicas >= min(wanted, before.replicas) or name != self.route_stable
            assert after.replicas >= 1
        elif after.replicas == 0 and before.ready and not self.spec["onFailure"]["cutStreams"]:
            delay = timedelta(seconds=self.strategy.scale_down_delay.seconds)
            left = self.left.get(name)
            assert left is None or self.now - left >= delay or self.jumped, "cut before scaleDownDelay"

    def later(self, **span: float) -> None:
        self.jumped = self.jumped or span.get("seconds", 0) < 0
        super().later(**span)

    @property
    def route_stable(self) -> str:
        """The stable revision by the route."""
        return self.route.stable if self.route is not None else ""

    def left_alone(self) -> None:
        """Everything is healthy from now on, and a person answers what is asked."""
        self.support, self.prunes, self.command = Support.UNKNOWN, False, None
        for _ in range(80):
            before = (self.route, self.status.get("history"))
            self.come_up()
            self.look(ADVANCE)
            self.accept()
            self.look(ADVANCE)
            self.later(minutes=11)
            self.look(ADVANCE)
            if self.paused:
                self.say("resume" if self.paused == "CommandPaused" else "retry")
            elif self.route is not None and self.route.step == "sign-off":
                self.say("approve")
            self.look(ADVANCE)
            if self.route is not None and not self.route.candidate and before == (self.route, self.status["history"]):
                break
        self.come_up()
        self.settle(ADVANCE)
        self.later(minutes=11)
        self.settle(ADVANCE)
        self._at_rest()

    def _at_rest(self) -> None:
        wanted = self.wanted.revision
        if self.route is None:
            assert not self.pods or not wanted
            return
        assert not self.route.candidate
        rejected = {each.revision for each in self.route.rejected}
        if wanted and wanted not in rejected:
            assert self.route.stable == wanted
        serving = PolicyRolloutSpec.model_validate(self.spec).serving
        least = serving.replicas if serving.autoscaling is None else serving.autoscaling.min
        assert self.pods[self.route.stable].ready >= least
        assert all(each.replicas == 0 for name, each in self.pods.items() if name != self.route.stable)
        self._history()

    def _history(self) -> None:
        """Exactly one entry for each rollout that ended; waiting for nodes again and again is one."""
        told = [each["revision"] for each in self.history if each["reason"] not in FOUND]
        waited = any(each["outcome"] == "Infrastructure" for each in self.history)
        ended = list(reversed(self.ended))
        if waited:
            told, ended = list(_collapsed(told)), list(_collapsed(ended))
        count = min(len(told), len(ended), 8)
        assert told[:count] == ended[:count]
        assert len(told) == len(ended) or len(self.history) >= 20 or waited


def _stage(traffic: Traffic) -> tuple[Any, ...]:
    return (traffic.candidate, traffic.step, traffic.goal, traffic.weight)


def _collapsed(names: Iterable[str]) -> Iterable[str]:
    last = None
    for name in names:
        if name != last:
            yield name
        last = name

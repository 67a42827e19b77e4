"""What holds for every history of a rollout, whatever users, gateways, pods and measurements do, and in which order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus
from rlhf_operator.policyrollout import recorded
from rlhf_operator.policyrollout.capacity import whole
from rlhf_operator.policyrollout.decision import Decision, Gate, GateState, Need
from rlhf_operator.policyrollout.steps import locate
from rlhf_operator.policyrollout.views import STARTING, Support, Traffic, Trouble

from .world import ANALYSIS, STEPS, World, receives, spec_of

REVISIONS = ["r1", "r2", "r3", "r4", "r5"]
WAIT = Gate(GateState.WAIT, words="measuring")
ADVANCE = Gate(GateState.ADVANCE)
FAILED = Gate(GateState.FAILED, words="ErrorRate 0.05 over 0.01")
UNDECIDED = Gate(GateState.PAUSE, words="no samples")
STEP_LISTS = [
    STEPS,
    STEPS[2:],
    STEPS[:1] + STEPS[4:],
    [],
    [{"name": "ten", "weight": 30}, {"name": "half", "weight": 30}],
]
SCALING = {"min": 2, "max": 8}


class Rollouts(RuleBasedStateMachine):
    """Users edit and command, pods and gateway do what they like, the operator looks and is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Checked()

    @initialize(
        capacity=st.sampled_from(["Full", "Proportional", "Replace"]),
        measured=st.booleans(),
        scaled=st.booleans(),
        cut=st.booleans(),
        action=st.sampled_from(["Rollback", "Rollback", "Pause"]),
        replicas=st.sampled_from([1, 3, 4]),
        stages=st.integers(0, 8),
    )
    def begin(
        self, capacity: str, measured: bool, scaled: bool, cut: bool, action: str, replicas: int, stages: int
    ) -> None:
        serving = {"replicas": replicas} | ({"autoscaling": SCALING} if scaled else {})
        self.world.spec = spec_of(
            serving=serving,
            strategy={"capacity": capacity},
            onFailure={"action": action, "cutStreams": cut},
            analysis=ANALYSIS if measured else None,
        )
        self.world.want("r1")
        self.world.look()
        if stages:
            self.the_candidate_goes_on()
            self.another_artifact("r2")
        for _ in range(stages):
            self.the_candidate_goes_on()

    # -- users

    @rule(name=st.sampled_from(REVISIONS))
    def another_artifact(self, name: str) -> None:
        self.world.want(name)
        self.world.look()

    @rule(steps=st.sampled_from(STEP_LISTS))
    def the_steps_are_edited(self, steps: list[dict[str, Any]]) -> None:
        self.world.change(strategy={"steps": steps})
        self.world.look()

    @rule(
        verb=st.sampled_from(["promote", "approve", "abort", "retry", "pause", "resume", "rollback", "nonsense"]),
        name=st.sampled_from(["", "", "", "", "-", *REVISIONS]),
        stale=st.sampled_from(["", "", "", "", "", "ten", "-"]),
        user=st.sampled_from(["alice", "bob"]),
    )
    def a_command(self, verb: str, name: str, stale: str, user: str) -> None:
        self._a_candidate_is_under_way()
        self.world.say(verb, name, stale, user)
        self.world.look()

    @rule(
        what=st.sampled_from(["nothing is wanted", "route deleted", "orphaned", "another gateway", "another size"]),
        support=st.sampled_from(list(Support)),
        prunes=st.booleans(),
        replicas=st.integers(1, 5),
    )
    def something_rare(self, what: str, support: Support, prunes: bool, replicas: int) -> None:
        match what:
            case "nothing is wanted":
                self.world.want_nothing()
            case "route deleted":
                self.world.lose_route()
            case "orphaned":
                self.world.lose_status()
            case "another gateway":
                self.world.support, self.world.prunes = support, prunes
            case _:
                self.world.change(serving={"replicas": replicas})
        self.world.look()

    # -- the cluster

    @rule(accepted=st.sampled_from([True, True, True, False, None]))
    def the_gateway_answers(self, accepted: bool | None) -> None:
        self.world.accept(accepted)
        self.world.look()

    @rule()
    def all_pods_come_up(self) -> None:
        self.world.come_up()
        self.world.look()

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data(), ready=st.integers(0, 4))
    def some_pods_are_ready(self, data: Any, ready: int) -> None:
        self._a_candidate_is_under_way()
        name = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.world.come_up(name, ready)
        self.world.look()

    @precondition(lambda self: self.world.pods)
    @rule(
        data=st.data(),
        trouble=st.sampled_from([*[Trouble.INFRASTRUCTURE, Trouble.STARTING] * 3, *Trouble]),
        ready=st.integers(0, 2),
    )
    def pods_have_trouble(self, data: Any, trouble: Trouble, ready: int) -> None:
        self._a_candidate_is_under_way()
        name = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.world.trouble(name, trouble, ready, "its words")
        self.world.look()

    @precondition(lambda self: self.world.pods and "autoscaling" in self.world.spec["serving"])
    @rule(data=st.data(), replicas=st.integers(2, 8))
    def the_autoscaler_decides(self, data: Any, replicas: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.world.autoscale(name, replicas)
        self.world.look()

    # -- measurements and time

    @rule(gate=st.sampled_from([ADVANCE, ADVANCE, ADVANCE, FAILED, UNDECIDED, WAIT]), quiet=st.booleans())
    def a_round_is_measured(self, gate: Gate, quiet: bool) -> None:
        if quiet:
            self._a_candidate_is_under_way()
            self.world.come_up()
            self.world.accept()
            self.world.look()
        self.world.look(gate)

    @precondition(lambda self: "analysis" in self.world.spec)
    @rule(writes=st.sampled_from([0, 1, 2, 100, 100]), gate=st.sampled_from([FAILED, FAILED, UNDECIDED]))
    def a_metric_decides(self, writes: int, gate: Gate) -> None:
        self._a_candidate_is_under_way()
        for _ in range(2):
            self.world.come_up()
            self.world.accept()
            self.world.look()
        self.world.look(gate, writes)

    @rule(seconds=st.sampled_from([1, 45, 130, 700, 2000, -600]))
    def time_passes(self, seconds: int) -> None:
        self.world.later(seconds=seconds)
        self.world.look()

    def _a_candidate_is_under_way(self) -> None:
        route = self.world.route
        if route is None or route.candidate:
            return
        refused = {each.revision for each in route.rejected} | {route.stable}
        fresh = [each for each in REVISIONS if each not in refused]
        if fresh:
            self.world.want(fresh[0])
            self.world.look()
            self.the_candidate_goes_on()

    @rule()
    def the_candidate_goes_on(self) -> None:
        for _ in range(3):
            self.world.come_up()
            self.world.look()
            self.world.accept()
            self.world.look()
        if self.world.route is not None and self.world.route.step == "sign-off":
            self.world.say("approve")
        self.world.later(minutes=6)
        self.world.look(ADVANCE)

    @rule(
        looks=st.lists(
            st.tuples(
                st.integers(0, 4),
                st.sampled_from([WAIT, ADVANCE, FAILED, UNDECIDED]),
                st.sampled_from(["", "", "promote", "abort", "rollback", "retry"]),
                st.sampled_from(["", "", *REVISIONS]),
            ),
            min_size=1,
            max_size=4,
        ),
        healthy=st.booleans(),
    )
    def the_operator_is_killed(self, looks: list[tuple[int, Gate, str, str]], healthy: bool) -> None:
        self._a_candidate_is_under_way()
        if healthy:
            # A clock that runs out is what the first look meets.
            self.world.come_up()
            self.world.accept()
            self.world.look()
            self.world.later(minutes=6)
        for writes, gate, verb, wish in looks:
            if healthy:
                self.world.come_up()
                self.world.accept()
            if verb:
                self.world.say(verb)
            if wish:
                self.world.want(wish)
            self.world.look(gate, writes)

    @rule()
    def a_second_look_plans_nothing(self) -> None:
        self.world.settle(WAIT)
        first = self.world.decide(WAIT)
        self.world.execute(first)
        assert self.world.decide(WAIT) == first

    @rule()
    def left_alone_it_ends(self) -> None:
        self.world.left_alone()

    # -- always

    @invariant()
    def at_most_two_revisions_have_traffic(self) -> None:
        assert len(receives(self.world.route)) <= 2


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


FOUND = ("FirstRevision", "Adopted")
PERSONS = ("promote", "rollback")


def _collapsed(names: Iterable[str]) -> Iterable[str]:
    last = None
    for name in names:
        if name != last:
            yield name
        last = name


Rollouts.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestRollouts = Rollouts.TestCase

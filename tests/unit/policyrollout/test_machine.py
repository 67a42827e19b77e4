"""What holds for every history of a rollout, whatever users, gateways, pods and measurements do, and in which order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlhf_operator.policyrollout.decision import Gate, GateState
from rlhf_operator.policyrollout.views import Support, Trouble

from .checked import ADVANCE, FAILED, WAIT, Checked
from .world import ANALYSIS, STEPS, receives, spec_of

REVISIONS = ["r1", "r2", "r3", "r4", "r5"]
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

    @rule(left=st.sets(st.sampled_from(range(len(STEPS)))), goes_on=st.integers(0, 3), after=st.booleans())
    def steps_come_and_go_around_the_candidates(self, left: set[int], goes_on: int, after: bool) -> None:
        self._a_candidate_is_under_way()
        for _ in range(goes_on):
            self.the_candidate_goes_on()
        self.world.settle(WAIT)
        before, steps = self.world.route, [STEPS[index] for index in sorted(left)]
        self.world.change(strategy={"steps": steps})
        self.world.look()
        if before is not None and before.weight == before.goal and before.step in [each["name"] for each in steps]:
            assert self.world.route == before, "an edit of other steps has moved traffic"
        if after:
            self.the_candidate_goes_on()

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


Rollouts.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestRollouts = Rollouts.TestCase

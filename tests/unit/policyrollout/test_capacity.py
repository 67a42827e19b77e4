"""Pods of every revision: what carries a weight, what waits for its delay, what goes for good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from rlhf_operator.api.rolloutstrategy import Capacity
from rlhf_operator.policyrollout.capacity import carries, pods_for, share
from rlhf_operator.policyrollout.decision import Gate, GateState
from rlhf_operator.policyrollout.views import Trouble

from .world import World, revision, spec_of

FULL, PROPORTIONAL, REPLACE = Capacity.FULL, Capacity.PROPORTIONAL, Capacity.REPLACE


@pytest.mark.parametrize(("weight", "count", "pods"), [(0, 4, 0), (1, 4, 1), (25, 4, 1), (26, 4, 2), (100, 4, 4)])
def test_a_share_is_whole_pods(weight: int, count: int, pods: int) -> None:
    assert share(weight, count) == pods


@pytest.mark.parametrize(
    ("capacity", "weight", "count", "pods"),
    [
        (FULL, 0, 4, 4),
        (FULL, 10, 4, 4),
        (PROPORTIONAL, 0, 4, 1),
        (PROPORTIONAL, 10, 4, 1),
        (PROPORTIONAL, 60, 4, 3),
        (PROPORTIONAL, 100, 4, 4),
        (REPLACE, 0, 4, 1),
        (REPLACE, 50, 4, 2),
        (REPLACE, 100, 4, 3),
        (REPLACE, 100, 1, 1),
    ],
)
def test_pods_that_must_be_ready_before_a_weight(capacity: Capacity, weight: int, count: int, pods: int) -> None:
    assert pods_for(weight, count, capacity) == pods
    assert carries(pods, weight, count, capacity)


def test_one_pod_less_than_the_weight_needs_does_not_carry_it() -> None:
    assert not carries(1, 50, 4, FULL)
    assert carries(2, 50, 4, FULL)


def test_full_keeps_both_whole_until_the_end() -> None:
    world = World().serve().enter("half")
    assert {name: each.replicas for name, each in world.pods.items()} == {"r1": 4, "r2": 4}


def test_proportional_gets_the_next_pods_before_the_next_weight() -> None:
    world = World(spec_of(strategy={"capacity": "Proportional"})).serve().enter("sign-off")
    assert world.pods["r2"].replicas == 1
    world.say("approve")
    world.settle()
    assert world.route is not None
    assert (world.route.step, world.route.weight, world.pods["r2"].replicas) == ("half", 10, 2)
    world.come_up()
    world.settle()
    assert world.route.weight == 50
    assert world.pods["r1"].replicas == 4


def test_replace_takes_pods_from_stable_and_gives_them_back() -> None:
    world = World(spec_of(strategy={"capacity": "Replace"})).serve().enter("half")
    assert {name: each.replicas for name, each in world.pods.items()} == {"r1": 2, "r2": 2}
    world.look(Gate(GateState.FAILED))
    world.settle()
    assert world.pods["r1"].replicas == 4
    assert world.pods["r2"].replicas == 2


def test_stable_of_an_autoscaler_is_held_while_a_candidate_takes_its_load() -> None:
    world = World(spec_of(serving={"autoscaling": {"min": 2, "max": 8}})).serve()
    world.pods["r1"] = replace(world.pods["r1"], replicas=6, ready=6, scaled_by_others=True)
    world.want("r2")
    world.settle()
    needed = world.decide().needed
    assert (needed["r1"].autoscale, needed["r2"].autoscale) == ((6, 8), (6, 8))
    world.want("r1")
    world.settle()
    assert world.decide().needed["r1"].autoscale == (2, 8)


def test_pods_go_after_the_delay_counted_from_an_accepted_route() -> None:
    world = World().serve().enter("half")
    world.look(Gate(GateState.FAILED))
    world.later(minutes=30)
    world.settle()
    assert world.pods["r2"].replicas == 4, "the gateway may still send requests to it"
    world.accept()
    world.settle()
    decision = world.decide()
    assert decision.wake_at == world.now + timedelta(minutes=10)
    world.later(minutes=10)
    world.settle()
    assert world.pods["r2"].replicas == 0


def test_cut_streams_ends_a_rejected_candidate_at_once() -> None:
    world = World(spec_of(onFailure={"cutStreams": True})).serve().enter("half")
    world.look(Gate(GateState.FAILED))
    world.settle()
    assert world.pods["r2"].replicas == 4
    world.accept()
    world.settle()
    assert world.pods["r2"].replicas == 0


def test_cut_streams_is_for_failures_only() -> None:
    world = World(spec_of(onFailure={"cutStreams": True})).serve().enter("half")
    world.want("r1")
    world.settle()
    world.accept()
    world.settle()
    assert world.pods["r2"].replicas == 4


def test_pods_that_found_no_node_are_not_waited_for() -> None:
    world = World().serve().enter("starting")
    world.trouble("r2", Trouble.INFRASTRUCTURE)
    world.want("r1")
    world.settle()
    world.accept()
    world.settle()
    assert world.pods["r2"].replicas == 0


def test_records_beyond_the_limit_go_and_those_one_can_go_back_to_stay() -> None:
    world = World(spec_of(revisionHistoryLimit=2, strategy={"rollbackWindow": 1})).serve()
    world.enter("bake")
    world.settle(Gate(GateState.ADVANCE))
    world.accept()
    world.settle()
    for number, name in enumerate(("x1", "x2", "x3"), 10):
        world.revisions[name] = revision(name, number)
    world.later(minutes=11)
    world.settle()
    assert set(world.revisions) == {"r2", "r1", "x3"}


def test_a_record_stays_while_its_pods_do() -> None:
    world = World(spec_of(revisionHistoryLimit=1, strategy={"rollbackWindow": 0})).serve().enter("half")
    world.look(Gate(GateState.FAILED))
    world.settle()
    for number, name in enumerate(("x1", "x2"), 10):
        world.revisions[name] = revision(name, number)
    world.want("r1")
    world.settle()
    assert "r2" in world.revisions
    world.accept()
    world.settle()
    world.later(minutes=11)
    world.settle()
    assert set(world.revisions) == {"r1", "x2"}

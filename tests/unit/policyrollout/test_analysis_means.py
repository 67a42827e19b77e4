"""What a round says of costs and of variety: means, held against a limit and against stable."""

from __future__ import annotations

import pytest

from rlhf_operator.policyrollout.decision import GateState

from .test_analysis import WINS, World, metric

COST = {"name": "cost", "preset": {"costPerRequest": {"max": 1, "inputPrice": "1", "outputPrice": "2"}}}
VARIED = {"name": "varied", "preset": {"diversity": {"minRatio": 0.9}}}


@pytest.mark.parametrize(("mean", "dearer"), [(0.6, True), (0.5, False)])
def test_more_wins_at_a_higher_cost_within_its_limit_ask_a_person(mean: float, dearer: bool) -> None:
    world = World(WINS, COST).share("wins", 700, 1000)
    world.mean("cost", mean, 5000, 0.01).mean("cost", 0.5, 9000, 0.01, "stable")
    found = world.look(11)
    assert metric(found, "cost").outcome == "Successful"
    assert (metric(found, "cost").reason == "WorseThanStable") is dearer
    assert (found.gate.state is GateState.PAUSE) is dearer


def test_a_cost_over_its_limit_is_rolled_back_unless_stable_costs_as_much() -> None:
    world = World(COST).mean("cost", 1.5, 5000, 0.01).mean("cost", 0.5, 9000, 0.01, "stable")
    assert world.look(11).gate.state is GateState.FAILED
    world.mean("cost", 1.5, 9000, 0.01, "stable")
    assert metric(world.look(12), "cost").reason == "StableAlsoFails"


@pytest.mark.parametrize(
    ("mean", "n", "outcome"), [(0.6, 2000, "Failed"), (0.9, 2000, "Successful"), (0.6, 200, "Inconclusive")]
)
def test_answers_that_become_alike_are_caught_against_stable(mean: float, n: float, outcome: str) -> None:
    world = World(VARIED).mean("varied", mean, n, 0.01).mean("varied", 0.9, 9000, 0.01, "stable")
    found = world.look(11)
    assert metric(found, "varied").outcome == outcome
    if outcome == "Failed":
        assert found.gate.words.startswith("Diversity 0.6 ")

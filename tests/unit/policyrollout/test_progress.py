"""The way of one rollout, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rlhf_operator.policyrollout.decision import Gate, GateState
from rlhf_operator.policyrollout.views import BAD_REVISION, Support, Trouble, Wanted

from .world import BEGIN, STEPS, World, spec_of

ADVANCE = Gate(GateState.ADVANCE)
FAILED = Gate(GateState.FAILED, words="RewardWinRate 0.41 (95 % 0.37-0.45) under 0.48 after 812 pairs")


def test_the_first_revision_gets_a_route_when_all_its_pods_are_ready() -> None:
    world = World()
    world.want("r1")
    world.settle()
    world.come_up("r1", 3)
    world.settle()
    assert world.route is None
    world.come_up()
    world.settle()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate) == ("r1", "")


def test_a_first_revision_with_too_few_pods_serves_after_the_deadline() -> None:
    world = World()
    world.want("r1")
    world.settle()
    world.come_up("r1", 1)
    world.later(minutes=31)
    world.settle()
    assert world.route is not None


def test_a_candidate_has_no_traffic_until_its_pods_are_ready() -> None:
    world = World().serve()
    world.want("r2")
    world.settle()
    assert world.route is not None
    assert (world.route.step, world.route.mirror) == ("starting", 0)
    world.come_up("r2", 3)
    world.settle()
    assert world.route.step == "starting"
    world.come_up()
    world.settle()
    assert world.route.step == "starting", "the gateway has not accepted the route yet"
    world.accept()
    world.settle()
    assert (world.route.step, world.route.weight, world.route.mirror) == ("shadow", 0, 20)


def test_a_step_clock_starts_when_its_route_is_accepted() -> None:
    world = World().serve().enter("shadow")
    world.look(ADVANCE)
    assert world.route is not None
    assert world.route.step == "staff"
    world.later(hours=1)
    world.settle(ADVANCE)
    assert world.status["step"].get("startedAt") is None
    assert world.route.step == "staff"
    world.accept(False)
    world.settle(ADVANCE)
    assert world.route.step == "staff"
    world.accept()
    world.look()
    assert world.status["step"]["startedAt"].startswith(world.now.strftime("%Y-%m-%dT%H:%M"))


def test_all_steps_then_bake_then_promotion_and_no_pod_changes() -> None:
    world = World().serve().enter("bake")
    assert world.route is not None
    assert (world.route.weight, world.route.mirror) == (100, 0)
    assert world.pods["r1"].replicas == 4
    world.look(ADVANCE)
    assert (world.route.stable, world.route.candidate) == ("r2", "")
    assert world.pods["r1"].replicas == 4
    world.accept()
    world.settle()
    world.later(minutes=9)
    world.settle()
    assert world.pods["r1"].replicas == 4, "scaleDownDelay is not over"
    world.later(minutes=2)
    world.settle()
    assert world.pods["r1"].replicas == 0
    assert "r1" in world.revisions


@pytest.mark.parametrize("step", ["shadow", "staff", "ten", "sign-off", "half", "bake"])
def test_failed_takes_everything_away_in_the_next_write(step: str) -> None:
    world = World().serve().enter(step)
    world.look(FAILED, writes=1)
    assert world.route is not None
    assert (world.route.candidate, world.route.weight, world.route.mirror, world.route.headers) == ("", 0, 0, ())
    world.settle()
    entry = world.history[0]
    assert (entry["revision"], entry["outcome"], entry["reason"]) == ("r2", "RolledBack", "AnalysisFailed")
    assert "0.41 (95 % 0.37-0.45) under 0.48 after 812 pairs" in entry["message"]
    assert step in entry["message"]
    assert world.pods["r2"].replicas == 4, "running answers go on until scaleDownDelay"


def test_a_rejected_revision_stays_away_until_another_is_wanted() -> None:
    world = World().serve().enter("ten")
    world.look(FAILED)
    for _ in range(5):
        world.later(hours=1)
        world.accept()
        world.settle()
    assert world.route is not None
    assert world.route.candidate == ""
    decision = world.decide()
    assert decision.outlook.stalled
    assert "retry" in decision.outlook.message
    world.want("r3")
    world.settle()
    assert world.route.candidate == "r3"


def test_on_failure_pause_keeps_the_weight_and_asks() -> None:
    world = World(spec_of(onFailure={"action": "Pause"})).serve().enter("ten")
    world.look(FAILED)
    assert world.route is not None
    assert (world.route.weight, world.paused) == (10, "AnalysisPaused")


@pytest.mark.parametrize("trouble", sorted(BAD_REVISION))
@pytest.mark.parametrize("step", ["starting", "ten"])
def test_a_bad_container_is_remembered(step: str, trouble: Trouble) -> None:
    world = World().serve().enter(step)
    world.trouble("r2", trouble, words="exit code 1")
    world.settle()
    assert world.route is not None
    assert [each.reason for each in world.route.rejected] == [trouble.value]
    assert (world.history[0]["outcome"], world.route.candidate) == ("RolledBack", "")


def test_no_nodes_is_not_the_models_fault() -> None:
    world = World().serve()
    world.want("r2")
    world.settle()
    world.trouble("r2", Trouble.INFRASTRUCTURE, words="0/3 nodes have a GPU")
    world.accept()
    world.later(minutes=31)
    world.settle()
    assert world.route is not None
    assert (world.route.candidate, world.route.rejected) == ("", ())
    assert (world.history[0]["outcome"], world.history[0]["message"]) == ("Infrastructure", "0/3 nodes have a GPU")
    world.accept()
    world.settle()
    assert world.pods["r2"].replicas == 0
    world.later(minutes=6)
    world.settle()
    assert world.route.candidate == "r2"
    world.trouble("r2", Trouble.INFRASTRUCTURE, words="0/3 nodes have a GPU")
    world.later(minutes=31)
    world.settle()
    assert [each["outcome"] for each in world.history] == ["Infrastructure", "Promoted"], "waiting is one entry"


def test_a_change_of_the_spec_tries_again_at_once() -> None:
    world = World().serve()
    world.want("r2")
    world.settle()
    world.trouble("r2", Trouble.INFRASTRUCTURE)
    world.later(minutes=31)
    world.settle()
    world.change(serving={"replicas": 2})
    world.settle()
    assert world.route is not None
    assert world.route.candidate == "r2"


def test_lost_pods_lower_the_weight_and_it_comes_back_by_itself() -> None:
    world = World().serve().enter("half")
    assert world.route is not None
    world.trouble("r2", Trouble.INFRASTRUCTURE, ready=1)
    world.settle()
    assert (world.route.step, world.route.weight, world.route.goal) == ("half", 10, 50)
    world.trouble("r2", Trouble.INFRASTRUCTURE, ready=0)
    world.settle()
    assert (world.route.weight, world.route.mirror) == (0, 0)
    world.later(hours=2)
    world.settle(ADVANCE)
    assert world.route.step == "half"
    world.come_up()
    world.settle(ADVANCE)
    assert world.route.weight == 50
    assert world.status["step"].get("startedAt") is None, "the clock begins anew when the gateway carries it again"
    assert world.history[0]["revision"] == "r1"


def test_back_to_stable_in_the_middle_withdraws_the_candidate() -> None:
    world = World().serve().enter("half")
    world.want("r1")
    world.settle()
    assert world.route is not None
    assert (world.route.candidate, world.route.rejected) == ("", ())
    assert world.history[0]["outcome"] == "Superseded"
    world.accept()
    world.settle()
    world.later(minutes=11)
    world.settle()
    assert world.pods["r2"].replicas == 0


def test_another_artifact_takes_the_place_in_one_write() -> None:
    world = World().serve().enter("half")
    world.want("r3")
    world.look()
    assert world.route is not None
    assert world.route.candidate == "r2"
    world.look(writes=1)
    assert (world.route.candidate, world.route.weight, world.route.step) == ("r3", 0, "starting")
    world.settle()
    assert [each["revision"] for each in world.history] == ["r2", "r1"]


def test_nothing_wanted_takes_nothing_away() -> None:
    world = World().serve().enter("ten")
    world.wanted = Wanted(None, reason="SourceNotPublished", message="waits")
    world.look(ADVANCE)
    assert world.route is not None
    assert world.route.step == "sign-off"


def test_a_lately_promoted_revision_skips_the_steps() -> None:
    world = World().serve().enter("bake")
    world.settle(ADVANCE)
    world.accept()
    world.settle()
    world.want("r1")
    world.settle()
    assert world.route is not None
    world.come_up()
    world.accept()
    world.settle()
    assert (world.route.step, world.route.weight) == ("bake", 100)


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        pytest.param([{"name": "ten", "weight": 40}], "ten", id="a heavier step of that name is reached later"),
        pytest.param([{"name": "ten", "weight": 5}], "ten", id="a lighter step of that name takes nothing away"),
        pytest.param([{"name": "other", "weight": 30}], "ten", id="the step is gone"),
        pytest.param([], "ten", id="all steps are gone"),
    ],
)
def test_an_edit_of_the_steps_moves_no_traffic(steps: list[dict[str, Any]], place: str) -> None:
    world = World().serve().enter("ten")
    world.change(strategy={"steps": steps})
    world.settle()
    assert world.route is not None
    assert (world.route.step, world.route.weight) == (place, 10)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(STEPS[2:], id="steps before it are gone"),
        pytest.param([{"name": "new", "weight": 1}, *STEPS], id="a step comes before it"),
        pytest.param([STEPS[0], *STEPS[2:]], id="a step between is gone"),
    ],
)
def test_the_step_under_way_is_known_by_its_name_wherever_an_edit_puts_it(steps: list[dict[str, Any]]) -> None:
    world = World().serve().enter("ten")
    before = world.route
    world.change(strategy={"steps": steps})
    world.settle()
    assert world.route == before
    world.look(ADVANCE)
    assert world.route is not None
    assert world.route.step == "sign-off"


def test_an_edited_step_is_gone_through_after_the_gate() -> None:
    world = World().serve().enter("ten")
    world.change(strategy={"steps": [{"name": "ten", "weight": 40}, {"name": "half", "weight": 50}]})
    world.settle()
    world.accept()
    world.settle()
    world.look(ADVANCE)
    assert world.route is not None
    assert (world.route.step, world.route.weight) == ("ten", 40)


def test_a_pruned_percent_takes_the_mirror_out_at_once() -> None:
    world = World(prunes=True).serve()
    world.want("r2")
    world.settle()
    world.come_up()
    world.accept()
    world.settle()
    assert world.route is not None
    assert (world.route.step, world.route.mirror, world.paused) == ("shadow", 0, "MirrorPercentPruned")
    world.prunes = False
    world.say("retry")
    world.settle()
    assert (world.route.mirror, world.paused) == (20, "")


def test_a_gateway_that_can_not_mirror_a_part_is_not_asked_to() -> None:
    world = World(support=Support.NO).serve()
    world.want("r2")
    world.settle()
    world.come_up()
    world.accept()
    world.settle()
    assert world.route is not None
    assert (world.route.mirror, world.paused) == (0, "MirrorUnsupported")
    world.support = Support.YES
    world.settle()
    assert (world.route.mirror, world.paused) == (20, "")


def test_a_deleted_route_comes_back_with_what_served_and_what_was_rejected() -> None:
    world = World().serve().enter("ten")
    world.look(FAILED)
    world.settle()
    world.want("r3")
    world.settle()
    world.route = None
    world.settle()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate, world.route.step) == ("r1", "r3", "starting")
    assert [each.revision for each in world.route.rejected] == ["r2"]


def test_what_serves_is_adopted_when_the_object_is_made_again() -> None:
    world = World().serve()
    world.status, world.route = {}, None
    world.want("r2")
    world.settle()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate) == ("r1", "r2")


def test_holds_alone_move_a_rollout_where_nothing_is_measured() -> None:
    world = World(spec_of(analysis=None, strategy={"steps": STEPS[2:3]})).serve()
    world.want("r2")
    world.settle()
    world.come_up()
    world.accept()
    world.settle()
    world.accept()
    world.settle()
    decision = world.decide()
    assert decision.wake_at == world.now + timedelta(minutes=2)
    world.later(seconds=119)
    world.settle()
    assert world.route is not None
    assert world.route.step == "ten"
    world.later(seconds=1)
    world.settle()
    assert world.route.step == "bake"


def test_a_clock_that_goes_back_only_delays() -> None:
    world = World(spec_of(analysis=None)).serve().enter("ten")
    world.now = BEGIN - timedelta(minutes=10)
    world.settle()
    assert world.route is not None
    assert world.route.step == "ten"
    world.later(minutes=3)
    world.settle()
    assert world.route.step == "sign-off"


def test_a_paused_route_is_left_alone() -> None:
    world = World().serve().enter("ten")
    observed = world.observe()
    assert observed.route is not None
    from rlhf_operator.policyrollout.progress import decide

    decision = decide(replace(observed, route=replace(observed.route, paused=True)), FAILED, world.now)
    assert decision.traffic == world.route
    assert decision.outlook.reason == "WritesPaused"


def test_a_step_does_not_end_by_the_clock_of_the_one_before_when_status_was_lost() -> None:
    world = World(spec_of(analysis=None)).serve().enter("shadow")
    world.later(minutes=2)
    world.look(writes=1)
    assert world.route is not None
    assert world.route.step == "staff"
    assert world.status["step"]["name"] == "shadow"
    world.accept()
    world.settle()
    assert world.route.step == "staff"
    world.later(minutes=1)
    world.settle()
    assert world.route.step == "ten"

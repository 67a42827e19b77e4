"""Commands of people: read, carried out, ignored, and never twice."""

from __future__ import annotations

import pytest

from rlhf_operator.policyrollout.commands import LONGEST_WORD, parse
from rlhf_operator.policyrollout.decision import Gate, GateState
from rlhf_operator.policyrollout.views import ROLLBACK, Command, Trouble

from .world import World


def test_a_command_is_five_words_and_the_last_may_have_spaces() -> None:
    found = parse("42 abort r2 ten Alice of Accounting", verified=True)
    assert found == Command("42", "abort", "r2", "ten", "Alice of Accounting", True)


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_no_words_are_no_command(text: str | None) -> None:
    assert parse(text, verified=True) is None


def test_words_are_bounded() -> None:
    found = parse("x" * 5000, verified=False)
    assert found is not None
    assert len(found.id) <= LONGEST_WORD


@pytest.mark.parametrize("text", ["1", "1 promote", "1 explode r2 ten alice", "1 promote r2 ten"])
def test_what_is_no_command_is_answered_once(text: str) -> None:
    world = World().serve().enter("ten")
    world.command = parse(text, verified=True)
    world.look()
    assert [reason for reason, _ in world.events][-1] == "CommandIgnored"
    told = len(world.events)
    world.settle()
    assert len(world.events) == told
    assert world.route is not None
    assert world.route.step == "ten"


@pytest.mark.parametrize(("revision", "step"), [("r9", "ten"), ("r2", "half"), ("r2", "-"), ("-", "ten")])
@pytest.mark.parametrize("verb", ["promote", "approve", "abort", "pause", "resume"])
def test_a_command_about_another_revision_or_step_does_nothing(verb: str, revision: str, step: str) -> None:
    world = World().serve().enter("ten")
    before = world.route
    world.say(verb, revision, step)
    world.look()
    assert world.route == before
    assert world.events[-1][0] == "CommandIgnored"
    assert world.status["lastCommand"]["id"] == world.command.id if world.command else False


def test_promote_takes_over_at_once_and_says_by_whom() -> None:
    world = World().serve().enter("ten")
    world.say("promote")
    world.look()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate) == ("r2", "")
    assert (world.history[0]["outcome"], world.history[0]["by"]) == ("Promoted", "alice")


def test_promote_waits_for_the_pods_that_carry_everything() -> None:
    world = World()
    world.change(strategy={"capacity": "Proportional"})
    world.serve().enter("ten")
    assert world.pods["r2"].replicas == 1
    world.say("promote")
    world.settle()
    assert world.route is not None
    assert (world.route.step, world.route.weight) == ("promote", 10)
    assert world.pods["r2"].replicas == 4
    world.come_up()
    world.settle()
    assert world.route.stable == "r2"
    assert world.history[0]["by"] == "alice"


def test_an_approval_needs_a_person_and_moves_on() -> None:
    world = World().serve().enter("sign-off")
    world.look(Gate(GateState.ADVANCE))
    assert world.route is not None
    assert world.route.step == "sign-off"
    world.say("approve")
    world.look()
    assert world.route.step == "half"


def test_a_step_without_approval_can_not_be_approved() -> None:
    world = World().serve().enter("ten")
    world.say("approve")
    world.look()
    assert "needs no approval" in world.events[-1][1]


def test_abort_is_remembered_until_retry() -> None:
    world = World().serve().enter("ten")
    world.say("abort")
    world.settle()
    assert world.route is not None
    assert (world.route.candidate, [each.reason for each in world.route.rejected]) == ("", ["Aborted"])
    assert (world.history[0]["outcome"], world.history[0]["by"]) == ("Aborted", "alice")
    assert "alice" in world.history[0]["message"]
    world.want("r1")
    world.settle()
    world.want("r2")
    world.settle()
    assert world.route.candidate == ""
    world.say("retry", "r2", "-")
    world.settle()
    assert (world.route.candidate, world.route.step, world.route.rejected) == ("r2", "starting", ())


def test_pause_holds_a_step_that_could_end_and_resume_ends_it() -> None:
    world = World().serve().enter("ten")
    world.say("pause")
    world.look()
    assert world.paused == "CommandPaused"
    world.later(hours=9)
    world.look(Gate(GateState.ADVANCE))
    assert world.route is not None
    assert world.route.step == "ten"
    world.say("resume")
    world.look(Gate(GateState.ADVANCE))
    assert (world.paused, world.route.step) == ("", "sign-off")


def test_a_paused_rollout_still_rolls_back() -> None:
    world = World().serve().enter("ten")
    world.say("pause")
    world.look()
    world.look(Gate(GateState.FAILED, words="ErrorRate 0.05"))
    assert world.route is not None
    assert (world.route.candidate, world.route.weight) == ("", 0)


def test_retry_of_an_undecided_step_starts_its_clock_anew() -> None:
    world = World().serve().enter("ten")
    started = world.status["step"]["startedAt"]
    world.later(hours=1)
    world.look(Gate(GateState.PAUSE, words="no samples"))
    assert world.paused == "Undecided"
    world.settle(Gate(GateState.ADVANCE))
    assert world.route is not None
    assert world.route.step == "ten"
    world.say("retry")
    world.look(Gate(GateState.PAUSE, words="no samples"))
    assert world.paused == ""
    assert world.status["step"]["startedAt"] > started
    world.look(Gate(GateState.ADVANCE))
    assert world.route.step == "sign-off"


def promoted_twice() -> World:
    """r1 was stable, r2 is."""
    world = World().serve().enter("ten")
    world.say("promote")
    world.settle()
    world.accept()
    world.settle()
    return world


def test_rollback_goes_to_the_former_revision_without_steps_and_remembers() -> None:
    world = promoted_twice()
    world.later(hours=1)
    world.settle()
    assert world.pods["r1"].replicas == 0
    world.say("rollback", "-", "-")
    world.look()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate, world.route.step) == ("r2", "r1", ROLLBACK)
    world.settle()
    assert world.pods["r1"].replicas == 4
    assert world.route.weight == 0
    world.come_up()
    world.settle()
    assert (world.route.stable, world.route.candidate) == ("r1", "")
    assert (world.history[0]["revision"], world.history[0]["reason"]) == ("r1", "RolledBack")
    assert world.history[0]["by"] == "alice"
    # The spec still asks for r2: it does not come back by itself.
    assert [each.revision for each in world.route.rejected] == ["r2"]


def test_a_rollback_that_is_called_off_changes_nothing() -> None:
    world = promoted_twice()
    world.trouble("r1", Trouble.INFRASTRUCTURE)
    world.say("rollback", "r1", "-")
    world.look()
    world.settle()
    world.say("abort")
    world.settle()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate, world.route.rejected) == ("r2", "", ())


def test_rollback_under_way_means_back_to_stable() -> None:
    world = World().serve().enter("half")
    world.say("rollback", "-")
    world.settle()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate) == ("r1", "")
    assert (world.history[0]["outcome"], world.history[0]["reason"]) == ("RolledBack", "RolledBack")


@pytest.mark.parametrize("revision", ["r1", "r7"])
def test_rollback_to_what_is_not_there_does_nothing(revision: str) -> None:
    world = World().serve()
    world.say("rollback", revision, "-")
    world.look()
    assert world.events[-1][0] == "CommandIgnored"
    assert world.route is not None
    assert world.route.stable == "r1"


def test_a_command_is_not_carried_out_twice_when_its_record_was_lost() -> None:
    world = promoted_twice().enter("ten", "r3")
    world.say("rollback", "-")
    world.look(writes=1)
    world.settle()
    assert world.route is not None
    assert (world.route.stable, world.route.candidate) == ("r2", "")
    assert [each["outcome"] for each in world.history if each["revision"] == "r3"] == ["RolledBack"]


def test_without_the_admission_policy_history_says_unverified() -> None:
    world = World().serve().enter("ten")
    world.command = Command("7", "abort", "r2", "ten", "alice", verified=False)
    world.settle()
    assert world.history[0]["by"] == "alice (unverified)"

"""What has ended is told from status and route, once, and bounded."""

from __future__ import annotations

from datetime import timedelta

import pytest

from rlhf_operator.api.rolloutstatus import HistoryEntry, PolicyRolloutStatus
from rlhf_operator.policyrollout.decision import Gate, GateState
from rlhf_operator.policyrollout.history import LIMIT, REMEMBERED, promoted, recorded_history, remembered
from rlhf_operator.policyrollout.views import Rejection

from .world import BEGIN, World


def entry(revision: str, outcome: str = "Promoted", minutes: int = 0) -> HistoryEntry:
    """An ended rollout."""
    at = BEGIN + timedelta(minutes=minutes)
    return HistoryEntry(revision=revision, outcome=outcome, from_=at, to=at + timedelta(minutes=1))


def test_history_keeps_the_newest() -> None:
    status = PolicyRolloutStatus(history=[entry(f"r{number}") for number in range(LIMIT)])
    after = recorded_history(status, entry("new"))
    assert (len(after), after[0].revision, after[-1].revision) == (LIMIT, "new", f"r{LIMIT - 2}")


def test_waiting_for_nodes_again_makes_the_entry_longer() -> None:
    status = PolicyRolloutStatus(history=[entry("r2", "Infrastructure"), entry("r1")])
    after = recorded_history(status, entry("r2", "Infrastructure", 40))
    assert [each.revision for each in after] == ["r2", "r1"]
    assert (after[0].from_, after[0].to) == (BEGIN, BEGIN + timedelta(minutes=41))


def test_former_revisions_are_told_from_the_last_backwards_without_those_that_failed() -> None:
    history = [entry("r3", "RolledBack"), entry("r1"), entry("r2"), entry("r1")]
    assert promoted(history, "r1") == ["r2"]
    assert promoted(history, "r9") == ["r1", "r2"]


def test_the_route_remembers_a_bounded_number_of_rejections() -> None:
    rejected = tuple(Rejection(f"r{number}", "Aborted", "", BEGIN) for number in range(REMEMBERED))
    after = remembered(rejected, Rejection("r3", "AnalysisFailed", "again", BEGIN))
    assert (len(after), after[0].revision, after[0].reason) == (REMEMBERED, "r3", "AnalysisFailed")
    assert len(remembered(rejected, Rejection("new", "Aborted", "", BEGIN))) == REMEMBERED


@pytest.mark.parametrize("writes", range(1, 4))
def test_an_end_is_recorded_once_wherever_the_operator_dies(writes: int) -> None:
    world = World().serve().enter("half")
    failed = Gate(GateState.FAILED, words="ErrorRate 0.05 over 0.01")
    for _ in range(3):
        world.look(failed, writes)
    # The spec asks for the next one before the end of the last is on record.
    world.want("r3")
    world.settle()
    assert [(each["revision"], each["outcome"]) for each in world.history] == [("r2", "RolledBack"), ("r1", "Promoted")]
    assert world.route is not None
    assert world.route.candidate == "r3"


def test_a_rollout_has_its_start_its_end_and_its_last_measurements() -> None:
    world = World().serve().enter("ten")
    since = next(each["since"] for each in world.status["variants"] if each["name"] == "Candidate")
    world.status["analysis"] = [{"metric": "errors", "outcome": "Failed", "value": 0.05}]
    world.look(Gate(GateState.FAILED))
    found = world.history[0]
    assert found["from"] == since
    assert found["to"] == world.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert found["metrics"][0]["value"] == 0.05

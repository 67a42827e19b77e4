"""Pods that somebody deletes while they run: what is recorded does not depend on when the operator looks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.views import Observed
from rlhf_operator.runs.views import PodView

from .factory import NOW, attempt, dead, frozen, job, pod, running, status_of, verdict

SOON = NOW + timedelta(seconds=30)
LOST = "the pod of index 1 was deleted; pod assistant-train-1-0-abcde"
NOTHING = verdict(failure="ResultUnknown", reason="NoResult", message="no result.json")


def deleted(index: int, code: int | None) -> PodView:
    return dead(index, code, deleting_since=SOON) if code is not None else pod(index, deleting_since=SOON)


def ended(*pods: PodView, before: tuple[dict[str, Any], ...] = (), **fields: Any) -> Observed:
    number = len(before) + 1
    status = status_of(
        attempts=[*before, attempt(number)], restarts=0, planDigest=frozen().digest, checkpoint={"step": 4}
    )
    asked = job(number, name="assistant-collect-1", uid="collect", role="collect", workers=1, verdict=NOTHING)
    return running(attempts=(job(number, *pods, **fields),), collect=asked, status=status)


def record(view: Observed) -> tuple[str, str, int]:
    plan = reconcile(view, NOW)
    assert plan.status is not None
    last = plan.status["attempts"][-1]
    return last["class"], last["reason"], plan.status["restarts"]


@pytest.mark.parametrize("seen", [(), (deleted(1, None),), (deleted(1, 137),), (deleted(1, 143),), (deleted(1, 75),)])
def test_a_rank_that_lost_a_deleted_peer_was_disrupted_whenever_it_is_seen(seen: tuple[PodView, ...]) -> None:
    class_, reason, restarts = record(ended(dead(0, 82), *seen, failed=True))
    assert (class_, restarts) == ("Disruption", 0)
    assert LOST in reason


def test_it_is_so_before_the_job_controller_has_failed_the_job() -> None:
    class_, _, restarts = record(ended(dead(0, 82), deleted(1, 137)))
    assert (class_, restarts) == ("Disruption", 0)


@pytest.mark.parametrize("seen", [(), (deleted(0, 137), deleted(1, 82)), (deleted(0, 137), deleted(1, None))])
def test_an_attempt_of_which_nothing_is_left_was_disrupted(seen: tuple[PodView, ...]) -> None:
    class_, reason, restarts = record(ended(*seen, failed=True, failed_reason="BackoffLimitExceeded"))
    assert (class_, restarts) == ("Disruption", 0)
    assert "no pod is left to say how; no result.json" in reason


@pytest.mark.parametrize("seen", [(), (deleted(1, 137),), (deleted(1, 82),), (deleted(1, 75),), (deleted(1, None),)])
@pytest.mark.parametrize(("code", "class_"), [(70, "Crash"), (81, "OutOfMemory"), (84, "Stalled"), (137, "Crash")])
def test_what_the_job_controller_deletes_after_a_failure_changes_nothing(
    seen: tuple[PodView, ...], code: int, class_: str
) -> None:
    found, reason, restarts = record(ended(dead(0, code), *seen, failed=True))
    assert (found, restarts) == (class_, 1)
    assert f"exited {code}" in reason


def test_a_pod_that_was_asked_to_stop_and_did_was_interrupted() -> None:
    class_, _, restarts = record(ended(deleted(0, 75), deleted(1, 75)))
    assert (class_, restarts) == ("Interrupted", 0)


def test_ranks_that_lose_each_other_while_nobody_is_gone_count() -> None:
    assert record(ended(dead(0, 82), dead(1, 82), failed=True))[::2] == ("PeerLost", 1)


@pytest.mark.parametrize(("pods", "class_"), [((dead(0, 82),), "PeerLost"), ((), "ResultUnknown")])
def test_a_pod_that_is_lost_again_and_again_counts_every_other_time(pods: tuple[PodView, ...], class_: str) -> None:
    """A crash whose pods somebody removes would else be tried again for ever."""
    records: tuple[dict[str, Any], ...] = ()
    classes = []
    for number in range(1, 5):
        found, reason, _ = record(ended(*pods, before=records, failed=True))
        classes.append(found)
        records = (*records, attempt(number, found, reason=reason))
    assert classes == ["Disruption", class_, "Disruption", class_]
    drained = attempt(1, "Disruption", reason="pod x was taken away (EvictionByEvictionAPI)")
    assert record(ended(*pods, before=(drained,), failed=True))[0] == "Disruption"

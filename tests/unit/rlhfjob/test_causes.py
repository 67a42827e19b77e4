"""Why an attempt ended, or is ended: the root cause among its pods, whose node it was, pods that never came."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rlhf_operator.api.result import Progress
from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.views import Observed

from .factory import (
    NOW,
    attempt,
    condition,
    dead,
    frozen,
    is_status,
    job,
    observed,
    pod,
    running,
    spec_of,
    status_of,
    verdict,
)


@pytest.mark.parametrize(
    ("pods", "job_fields", "class_", "words"),
    [
        ((dead(0, 70, "boom\nValueError: bad"),), {}, "Crash", "ValueError: bad"),
        ((dead(0, 82), dead(1, 137)), {}, "Crash", "exited 137"),
        ((dead(0, 82), dead(1, 137, exit_reason="OOMKilled")), {}, "OutOfMemory", "OOMKilled"),
        ((dead(0, 82), dead(1, 81)), {}, "OutOfMemory", "exited 81"),
        ((dead(0, 84),), {}, "Stalled", "exited 84"),
        ((dead(0, 75), dead(1, 75, disruption="EvictionByEvictionAPI")), {}, "Disruption", "EvictionByEvictionAPI"),
        ((dead(0, 70), dead(1, 75, disruption="DeletionByTaintManager")), {}, "Disruption", "TaintManager"),
        ((dead(0, 83),), {}, "Superseded", "exited 83"),
        # Its peer's pod is gone: a pod that fails by itself stays.
        ((dead(0, 82),), {}, "Disruption", "index 1 was deleted"),
        ((dead(0, 82), dead(1, 82)), {}, "PeerLost", "exited 82"),
        # The pod is gone, the Job's condition still names it.
        (
            (dead(0, 82),),
            {
                "failed_message": "Container trainer for pod team/assistant-train-1-1-xyz failed with exit code 81 "
                "matching FailJob rule at index 2"
            },
            "OutOfMemory",
            "assistant-train-1-1-xyz exited 81",
        ),
        (
            (dead(0, 82),),
            {
                "failed_message": "Pod team/assistant-train-1-1-xyz has condition DisruptionTarget matching FailJob "
                "rule at index 3"
            },
            "Disruption",
            "taken away",
        ),
    ],
)
def test_the_root_cause_is_found_and_retried(pods: Any, job_fields: dict[str, Any], class_: str, words: str) -> None:
    view = running(attempts=(job(1, *pods, failed=True, **job_fields),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == class_
    assert words in plan.status["attempts"][-1]["reason"]
    counted = class_ in ("Crash", "OutOfMemory", "Stalled", "PeerLost")
    assert plan.status["restarts"] == int(counted)
    assert is_status(plan, "Failed") == "False/NotFinished"
    # Recorded first; only a later pass deletes.
    assert (plan.delete, plan.create) == ((), ())


def test_a_job_that_somebody_deleted_is_a_disruption() -> None:
    plan = reconcile(running(attempts=()), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Disruption"
    assert plan.status["restarts"] == 0


def test_not_all_workers_within_the_startup_timeout_is_told_in_the_schedulers_words() -> None:
    waiting = pod(1, phase="Pending", started=False, node=None, waiting="pod-1: 0/3 nodes are available")
    early = running(None, pod(0), waiting, attempts=(job(1, pod(0), waiting, started_at=NOW - timedelta(minutes=29)),))
    plan = reconcile(early, NOW)
    assert is_status(plan, "Running") == "False/Starting"
    assert "0/3 nodes are available" in condition(plan, "Running")["message"]
    assert plan.wake_at == NOW + timedelta(minutes=1)
    late = reconcile(early, NOW + timedelta(minutes=1))
    assert late.status is not None
    assert late.status["attempts"][-1]["class"] == "GangNotScheduled"
    assert "0/3 nodes are available" in late.status["attempts"][-1]["reason"]
    # Only failures of the run itself count; a full cluster is waited for with back-off.
    assert late.status["restarts"] == 0
    full = running(spec_of(maxRestarts=0), attempts=early.attempts)
    assert is_status(reconcile(full, NOW + timedelta(minutes=1)), "Failed") == "False/NotFinished"
    records = [attempt(number, "GangNotScheduled") for number in (1, 2, 3)]
    again = reconcile(observed(plan=frozen(), status=status_of(attempts=records)), NOW)
    assert (again.create, again.wake_at) == ((), NOW + timedelta(seconds=40))


BLAME: list[tuple[Any, str, str | None]] = [
    ((dead(0, 82), dead(1, 70)), "Crash", "node-1"),
    ((dead(0, 82), dead(1, 84)), "Stalled", "node-1"),
    # Which of them kept the others waiting is not known.
    ((dead(0, 84), dead(1, 84)), "Stalled", None),
    ((dead(0, 82), dead(1, 82)), "PeerLost", None),
    ((dead(0, 82),), "Disruption", None),
]


@pytest.mark.parametrize(("pods", "class_", "node"), BLAME)
def test_no_node_is_blamed_for_what_another_did(pods: Any, class_: str, node: str | None) -> None:
    plan = reconcile(running(attempts=(job(1, *pods, failed=True),)), NOW)
    assert plan.status is not None
    record = plan.status["attempts"][-1]
    assert (record["class"], record.get("node")) == (class_, node)


def reading(step: int, reward: float | None = 0.5) -> Progress:
    return Progress(plan_digest=frozen().digest, attempt=1, step=step, steps=8, reward=reward, updated_at=NOW)


def stuck(
    spec: Any = None,
    step: int = 3,
    reward: float | None = 0.5,
    minutes: int = 41,
    attempts_from: int = 1440,
    **changes: Any,
) -> Observed:
    """An attempt that began a day ago and whose last reading changed so many minutes ago."""
    known = {"step": step, "steps": 8, "reward": reward, "updatedAt": NOW - timedelta(minutes=minutes)}
    records = [attempt(1, None, **{"from": NOW - timedelta(minutes=attempts_from)})]
    status = status_of(attempts=records, planDigest=frozen(spec).digest, progress=known)
    return running(spec, status=status, **({"progress": reading(step, reward)} | changes))


WARM_UP = {
    "dataset": {
        "configMap": {"name": "prompts", "key": "train.jsonl"},
        "format": "Demonstrations",
    },
    "training": {"epochs": 1, "batchSize": 8},
}


SILENCE: list[tuple[Observed, str | None]] = [
    (stuck(), "Stalled"),
    (stuck(minutes=39), None),
    (stuck(progress=None), None),
    (stuck(progress=reading(4)), None),
    (stuck(step=8), None),
    (stuck(step=0, reward=None), "Stalled"),
    (stuck(spec_of(warmStart=WARM_UP), step=0, reward=None), None),
    # Resumed where the attempt before it was: its own start counts.
    (stuck(minutes=200, attempts_from=39), None),
    (stuck(minutes=200, attempts_from=41), "Stalled"),
]


@pytest.mark.parametrize(
    ("view", "class_"),
    SILENCE,
    ids=["stalled", "patience", "unread", "moves", "last", "never", "warm-start", "resumed", "resumed-late"],
)
def test_an_attempt_without_steps_is_ended_when_its_watchdog_does_not(view: Observed, class_: str | None) -> None:
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1].get("class") == class_
    assert plan.status["restarts"] == int(class_ is not None)
    if class_ is not None:
        assert "after step" in plan.status["attempts"][-1]["reason"]
        after = replace(view, status=status_of(**plan.status), raw_status=plan.status)
        assert [each.uid for each in reconcile(after, NOW).delete] == ["job-1"]


def test_a_sidecar_keeps_no_attempt_from_being_over() -> None:
    said = verdict()
    sidecar = pod(0, exit_code=0, busy=True, termination_message=said.encode().decode())
    view = running(attempts=(job(1, sidecar, pod(1, exit_code=0), verdict=said),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"
    after = replace(view, status=status_of(attempts=[attempt(1, "Succeeded")]))
    assert [each.name for each in reconcile(after, NOW).delete] == ["assistant-train-1"]


def test_a_pod_on_a_dead_node_is_given_up_and_left_to_be_fenced() -> None:
    stuck = pod(1, deleting_since=NOW - timedelta(minutes=2))
    view = running(None, dead(0, 82), stuck, attempts=(job(1, dead(0, 82), stuck),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Disruption"
    after = replace(view, status=status_of(attempts=[attempt(1, "Disruption")]))
    assert [each.propagation for each in reconcile(after, NOW).delete] == ["Background"]

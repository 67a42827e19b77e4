"""Whether a failed attempt is followed by another, when, and what the next one is given."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_trainer.errors import Superseded
from rlhf_trainer.fencing import Workspace

from .factory import (
    NOW,
    attempt,
    condition,
    dead,
    frozen,
    is_status,
    job,
    names,
    observed,
    running,
    spec_of,
    status_of,
    verdict,
)


@pytest.mark.parametrize(("code", "reason"), [(78, "ConfigError"), (80, "GuardStopped")], ids=["config", "guard"])
def test_config_and_guard_are_never_retried(code: int, reason: str) -> None:
    said = verdict(failure="Config", reason="Config", message="steps 0 of rank 3").encode().decode()
    plan = reconcile(
        running(
            None, dead(0, code, said), dead(1, 82), attempts=(job(1, dead(0, code, said), dead(1, 82), failed=True),)
        ),
        NOW,
    )
    assert is_status(plan, "Failed") == f"True/{reason}"
    assert "steps 0 of rank 3" in condition(plan, "Failed")["message"]
    assert is_status(plan, "Stalled") == f"True/{reason}"


def test_the_job_is_deleted_only_when_its_end_is_on_record() -> None:
    view = running(
        status=status_of(attempts=[attempt(1, "Crash")], restarts=1), attempts=(job(1, dead(0, 70), failed=True),)
    )
    plan = reconcile(view, NOW)
    assert [(each.name, each.uid, each.propagation) for each in plan.delete] == [
        ("assistant-train-1", "job-1", "Foreground")
    ]
    assert plan.create == ()


def test_the_next_attempt_waits_for_its_back_off() -> None:
    view = observed(plan=frozen(), status=status_of(attempts=[attempt(1, "Crash")], restarts=1))
    early = reconcile(view, NOW + timedelta(seconds=9))
    assert (early.create, early.wake_at) == ((), NOW + timedelta(seconds=10))
    assert is_status(early, "Running") == "False/BackOff"
    late = reconcile(view, NOW + timedelta(seconds=10))
    assert names(late.create) == ["Job/assistant-train-2"]


def test_a_disruption_is_free_and_retried_at_once() -> None:
    view = observed(plan=frozen(), status=status_of(attempts=[attempt(1, "Disruption")], restarts=5))
    assert names(reconcile(view, NOW).create) == ["Job/assistant-train-2"]


def test_disruptions_that_follow_each_other_at_once_back_off() -> None:
    short = {"from": NOW - timedelta(seconds=5)}
    view = observed(
        plan=frozen(), status=status_of(attempts=[attempt(1, "Disruption", **short), attempt(2, "Disruption", **short)])
    )
    assert reconcile(view, NOW).wake_at == NOW + timedelta(seconds=20)


def test_too_many_restarts_fail_the_job_with_the_last_words() -> None:
    view = running(
        spec_of(maxRestarts=2),
        attempts=(job(1, dead(0, 70, "RuntimeError: no"), failed=True),),
        status=status_of(attempts=[attempt()], restarts=2),
    )
    plan = reconcile(view, NOW)
    assert is_status(plan, "Failed") == "True/MaxRestartsExceeded"
    assert "maxRestarts 2" in condition(plan, "Failed")["message"]
    assert "RuntimeError: no" in condition(plan, "Failed")["message"]


def test_out_of_memory_halves_the_micro_batch_once() -> None:
    view = observed(plan=frozen(), status=status_of(attempts=[attempt(1, "OutOfMemory")], restarts=1))
    plan = reconcile(view, NOW + timedelta(minutes=1))
    arguments = plan.create[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--micro-batch-size") + 1] == "2"
    assert "microBatchSize 2 instead of 4" in plan.events[0].message
    oom = dead(1, 137, exit_reason="OOMKilled")
    again = running(
        attempts=(job(2, dead(0, 82), oom, failed=True, micro_batch_size=2),),
        status=status_of(attempts=[attempt(1, "OutOfMemory"), attempt(2, microBatchSize=2)], restarts=1),
    )
    failed = reconcile(again, NOW)
    assert is_status(failed, "Failed") == "True/OutOfMemory"
    assert "spec.training.microBatchSize" in condition(failed, "Failed")["message"]


def test_a_micro_batch_stays_halved_after_another_failure() -> None:
    records = [attempt(1, "OutOfMemory"), attempt(2, "Disruption", microBatchSize=2)]
    view = observed(plan=frozen(), status=status_of(attempts=records, restarts=1))
    arguments = reconcile(view, NOW).create[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--micro-batch-size") + 1] == "2"


def test_two_failures_on_one_node_make_the_next_attempt_prefer_others() -> None:
    records = [attempt(1, "Crash", node="node-7"), attempt(2, "Stalled", node="node-7")]
    plan = reconcile(observed(plan=frozen(), status=status_of(attempts=records, restarts=2)), NOW + timedelta(hours=1))
    affinity = plan.create[0]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert list(affinity) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    assert "node-7" in plan.events[0].message


def test_the_next_attempt_must_find_the_checkpoint_that_status_knows() -> None:
    status = status_of(attempts=[attempt(1, "Disruption")], checkpoint={"step": 6, "digest": "sha256:" + "1" * 64})
    arguments = reconcile(observed(plan=frozen(), status=status), NOW).create[0]
    args = arguments["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--min-checkpoint-step") + 1] == "6"


def test_a_job_created_again_steps_over_the_attempts_of_its_former_life(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "7").mkdir(parents=True)
    # In the trainer's own words: they are what the number is read from.
    with pytest.raises(Superseded) as gave_way:
        Workspace(tmp_path, 1).check()
    said = verdict(failure="Superseded", reason="Superseded", message=str(gave_way.value))
    ended = dead(0, 83, said.encode().decode())
    plan = reconcile(running(attempts=(job(1, ended, dead(1, 82), failed=True, verdict=said),)), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Superseded"
    after = observed(plan=frozen(), status=status_of(**plan.status))
    assert names(reconcile(after, NOW + timedelta(seconds=10)).create) == ["Job/assistant-train-8"]

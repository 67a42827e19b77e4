"""An attempt that starts and runs: what is made for it, what is left alone, what may change meanwhile."""

from __future__ import annotations

from datetime import timedelta

from rlhf_operator.rlhfjob.reconcile import reconcile

from .factory import (
    NOW,
    frozen,
    is_status,
    job,
    names,
    observed,
    pod,
    running,
    spec_of,
    status_of,
)


def test_a_new_job_makes_everything_in_one_pass() -> None:
    plan = reconcile(observed(), NOW)
    digest = frozen().digest.removeprefix("sha256:")[:12]
    assert names(plan.create) == [f"ConfigMap/assistant-plan-{digest}", "Job/assistant-train-1"]
    assert names(plan.apply) == ["ConfigMap/assistant-settings", "Service/assistant-train"]
    assert plan.status is not None
    assert plan.status["attempts"] == [{"number": 1, "microBatchSize": 4}]
    assert plan.status["planDigest"] == frozen().digest
    assert plan.status["algorithm"] == "PPO"
    assert plan.status["effective"] == {"guards": ["finite=Stop"], "metrics": [], "rewards": ["short=0.5"]}
    assert is_status(plan, "ReferencesResolved") == "True/Resolved"
    assert is_status(plan, "StorageReady") == "True/StorageReady"
    assert is_status(plan, "Ready") == "False/Starting"


def test_one_worker_needs_no_service_and_one_made_before_is_left_alone() -> None:
    alone = spec_of(compute={"workers": 1})
    assert names(reconcile(observed(alone), NOW).apply) == ["ConfigMap/assistant-settings"]
    old = running(alone, attempts=(job(1, pod(0), workers=1),), service_uid="service")
    plan = reconcile(old, NOW)
    assert (names(plan.apply), plan.create, plan.delete) == (["ConfigMap/assistant-settings"], (), ())


def test_a_running_attempt_is_left_alone() -> None:
    plan = reconcile(running(), NOW)
    assert (plan.create, plan.delete) == ((), ())
    assert is_status(plan, "Running") == "True/Running"
    assert plan.wake_at == NOW + timedelta(seconds=15)


def test_guard_actions_reach_a_running_job_and_change_no_plan() -> None:
    spec = spec_of(guards=[{"name": "finite", "nonFinite": {}, "action": "Warn"}])
    plan = reconcile(running(spec), NOW)
    assert plan.apply[0]["data"]["settings.json"] == '{"guardActions":{"finite":"Warn"}}'
    assert frozen(spec).digest == frozen().digest


def test_a_job_that_waits_for_its_pods_writes_its_status_once() -> None:
    made = reconcile(observed(), NOW)
    assert [event.reason for event in made.events] == ["AttemptStarted"]
    assert made.status is not None
    waiting = running(
        attempts=(job(1, pod(0, phase="Pending", node=None, started=False), started_at=NOW),),
        status=status_of(**made.status),
        raw_status=made.status,
    )
    assert reconcile(waiting, NOW + timedelta(seconds=2)).status == made.status

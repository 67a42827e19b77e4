"""Kueue's queue, and suspension by hand: an attempt that waits or makes room costs nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.views import Observed
from rlhf_operator.runs.views import WorkloadView

from .factory import (
    NOW,
    condition,
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


def test_suspend_deletes_the_job_in_the_foreground_and_resume_counts_no_restart() -> None:
    spec = spec_of(suspend=True)
    stop = reconcile(running(spec), NOW)
    assert [(each.uid, each.propagation) for each in stop.delete] == [("job-1", "Foreground")]
    assert is_status(stop, "Suspended") == "False/Suspending"
    gone = reconcile(running(spec, attempts=()), NOW)
    assert gone.status is not None
    assert is_status(gone, "Suspended") == "True/Suspended"
    assert gone.status["attempts"][-1]["class"] == "Interrupted"
    assert gone.status["restarts"] == 0
    resumed = reconcile(observed(plan=frozen(), status=status_of(**gone.status)), NOW + timedelta(seconds=1))
    assert names(resumed.create) == ["Job/assistant-train-2"]


KUEUE = {"workers": 2, "queueName": "research", "priorityClass": "batch"}


def test_a_queued_job_is_made_suspended_with_kueues_labels() -> None:
    plan = reconcile(observed(spec_of(compute=KUEUE)), NOW)
    made = plan.create[-1]
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert made["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "batch"
    assert is_status(plan, "Queued") == "True/Queued"


def queued(**changes: Any) -> Observed:
    held = job(1, suspended=True, started_at=None, created_at=NOW, queue_name="research")
    return running(spec_of(compute=KUEUE), attempts=(held,), **changes)


def test_a_queue_without_a_workload_is_said_to_be_silent() -> None:
    status = status_of(attempts=[{"number": 1, "microBatchSize": 4}])
    early = reconcile(queued(status=status), NOW)
    assert (is_status(early, "Queued"), early.wake_at) == ("True/Queued", NOW + timedelta(seconds=60))
    late = reconcile(queued(status=status), NOW + timedelta(seconds=60))
    assert is_status(late, "Queued") == "True/KueueNotResponding"
    assert "LocalQueue research" in condition(late, "Queued")["message"]
    assert late.delete == ()


def test_a_preempted_job_keeps_its_place_and_costs_nothing_while_it_waits() -> None:
    compute = {**KUEUE, "gpusPerWorker": 8}
    spec = spec_of(compute=compute, training={"steps": 8, "batchSize": 64, "microBatchSize": 1})
    held = job(1, suspended=True, started_at=None, queue_name="research")
    workload = WorkloadView("w", evicted="Preempted", message="couldn't assign flavors")
    view = running(spec, attempts=(held,), workload=workload)
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert is_status(plan, "Queued") == "True/Preempted"
    assert plan.status["attempts"][-1]["class"] == "Disruption"
    assert plan.status["cost"]["gpuHours"] == 16
    assert (plan.delete, plan.create) == ((), ())
    again = replace(view, status=status_of(**plan.status), raw_status=plan.status)
    later = reconcile(again, NOW + timedelta(hours=3))
    assert later.status is not None
    assert later.status["cost"]["gpuHours"] == 16
    admitted = replace(again, attempts=(job(1, pod(0), pod(1), started_at=NOW + timedelta(hours=3)),))
    resumed = reconcile(admitted, NOW + timedelta(hours=4))
    assert resumed.status is not None
    assert [each["number"] for each in resumed.status["attempts"]] == [1, 1]
    assert resumed.status["cost"]["gpuHours"] == 32
    assert resumed.status["restarts"] == 0


def test_a_queued_job_that_waits_for_kueue_writes_its_status_once() -> None:
    made = reconcile(observed(spec_of(compute=KUEUE)), NOW)
    assert made.status is not None
    view = queued(status=status_of(**made.status), raw_status=made.status)
    plan = reconcile(replace(view, plan=frozen(spec_of(compute=KUEUE))), NOW)
    assert plan.status == made.status

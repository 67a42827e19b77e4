"""GPU hours and cost: how they are counted, and what happens when they are used up."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from rlhf_operator.rlhfjob.reconcile import reconcile

from .factory import (
    NOW,
    attempt,
    dead,
    frozen,
    is_status,
    job,
    names,
    observed,
    running,
    spec_of,
    status_of,
)


def test_gpu_hours_are_those_of_the_pods_and_not_of_the_looks_at_them() -> None:
    """The operator was down for two hours, and the Job waited half an hour for its first node."""
    began, ended = NOW - timedelta(minutes=210), NOW - timedelta(hours=2)
    pods = [dead(0, 70, scheduled_at=began), dead(1, 82, scheduled_at=began + timedelta(minutes=5))]
    pods = [replace(each, ended_at=ended - timedelta(minutes=index)) for index, each in enumerate(pods)]
    view = running(
        gpu_spec(),
        attempts=(job(1, *pods, failed=True, started_at=NOW - timedelta(hours=4)),),
        status=status_of(attempts=[{"number": 1, "microBatchSize": 1}]),
    )
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["cost"]["gpuHours"] == 1.5 * 8
    # Its pods are gone: the Job controller's word on the end is what is left.
    gone = replace(view, attempts=(job(1, failed=True, ended_at=ended, failed_message=GONE),))
    records = status_of(attempts=[attempt(1, None, **{"from": began})])
    assert reconcile(replace(gone, status=records), NOW).status["cost"]["gpuHours"] == 1.5 * 8  # type: ignore[index]


GONE = "Pod team/assistant-train-1-1-xyz has condition DisruptionTarget matching FailJob rule at index 3"


def gpu_spec(**changes: Any) -> Any:
    return spec_of(
        compute={"workers": 2, "gpusPerWorker": 4},
        training={"steps": 8, "batchSize": 64, "microBatchSize": 1},
        **changes,
    )


def test_a_budget_that_is_used_up_stops_the_pods_and_raising_it_goes_on() -> None:
    budget = {"maxGPUHours": 8, "pricePerGPUHour": "2.50"}
    plan = reconcile(running(gpu_spec(budget=budget)), NOW)
    assert [each.uid for each in plan.delete] == ["job-1"]
    assert plan.status is not None
    assert plan.status["cost"] == {"gpuHours": 8.0, "endedGPUHours": 0.0, "amount": "20.00"}
    gone = reconcile(running(gpu_spec(budget=budget), attempts=()), NOW)
    assert gone.status is not None
    assert is_status(gone, "Suspended") == "True/BudgetExceeded"
    assert is_status(gone, "Stalled") == "True/BudgetExceeded"
    assert is_status(gone, "Failed") == "False/NotFinished"
    still = observed(gpu_spec(budget=budget), plan=frozen(gpu_spec()), status=status_of(**gone.status))
    assert reconcile(still, NOW + timedelta(days=1)).create == ()
    raised = replace(still, spec=gpu_spec(budget={"maxGPUHours": 9}))
    assert names(reconcile(raised, NOW).create) == ["Job/assistant-train-2"]


def test_the_budget_is_looked_at_when_it_will_be_reached() -> None:
    plan = reconcile(running(gpu_spec(budget={"maxGPUHours": 8.002, "pricePerGPUHour": "1"})), NOW)
    assert plan.delete == ()
    assert plan.wake_at is not None
    assert timedelta(0) < plan.wake_at - NOW < timedelta(seconds=1)


def test_max_cost_is_a_budget_too() -> None:
    plan = reconcile(running(gpu_spec(budget={"maxCost": "16", "pricePerGPUHour": "2"})), NOW)
    assert "budget.maxCost 16" in plan.status["message"]  # type: ignore[index]

"""The plan of a run is made once: what it holds, and what of the spec is no part of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.rlhfjob.reconcile import reconcile

from .factory import (
    NOW,
    attempt,
    frozen,
    is_status,
    names,
    observed,
    spec_of,
    status_of,
)


def test_a_plan_that_is_frozen_is_read_and_not_rendered_again() -> None:
    """An operator upgrade with another trainer image touches no job that has a plan."""
    upgraded = replace(observed(plan=frozen()).defaults, trainer_image="registry.example/trainer:2")
    view = observed(plan=frozen(), defaults=upgraded, status=status_of(planDigest=frozen().digest))
    plan = reconcile(view, NOW)
    assert names(plan.create) == ["Job/assistant-train-1"]
    image = plan.create[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example/trainer:1"


def test_a_plan_whose_config_map_is_gone_is_not_replaced_by_another() -> None:
    view = observed(status=status_of(planDigest="sha256:" + "0" * 64, attempts=[attempt(1, "Disruption")]))
    plan = reconcile(view, NOW)
    assert plan.create == ()
    assert is_status(plan, "Stalled") == "True/PlanChanged"


OUTSIDE_THE_PLAN = [
    {"suspend": True},
    {"ttlSecondsAfterFinished": 5},
    {"budget": {"maxGPUHours": 5}},
    {"maxRestarts": 1},
    {"training": {"steps": 8, "batchSize": 16, "microBatchSize": 2}},
    {"guards": [{"name": "finite", "nonFinite": {}, "action": "Off"}]},
]


@pytest.mark.parametrize("change", OUTSIDE_THE_PLAN)
def test_what_does_not_change_the_run_does_not_change_its_workspace(change: dict[str, Any]) -> None:
    assert frozen(spec_of(**change)).digest == frozen().digest


def test_what_changes_the_run_changes_its_workspace() -> None:
    assert frozen(spec_of(training={"steps": 9, "batchSize": 16})).digest != frozen().digest


def test_a_plan_survives_its_own_text() -> None:
    text = frozen().plan
    assert text is not None
    assert TrainingPlan.model_validate_json(text.canonical()).digest() == frozen().digest

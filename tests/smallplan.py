"""The small PPO plan that tests of every tier start from, on one CPU process; a test changes what it is about."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from rlhf_operator.api.plan import TrainingPlan

COMPUTE = {
    "workers": 1,
    "procsPerWorker": 1,
    "gpusPerWorker": 0,
    "zeroStage": 0,
    "offload": "None",
    "precision": "fp32",
    "gradientCheckpointing": False,
    "attention": "auto",
    "deterministic": False,
}
"""One process on the CPU."""


def raw_plan(dataset: dict[str, Any]) -> dict[str, Any]:
    """The plan's JSON with the given data set."""
    return {
        "name": "job",
        "namespace": "default",
        "image": "trainer:1",
        "algorithm": "PPO",
        "baseModel": {"path": "/rlhf/claims/models/base", "ref": "pvc://models/base"},
        "dataset": dataset,
        "training": {"steps": 2, "batchSize": 4, "seed": 17},
        "optimizer": {"learningRate": 1e-5},
        "generation": {"maxPromptLength": 64, "maxResponseLength": 64},
        "compute": dict(COMPUTE),
        "checkpoints": {"everySteps": 1, "keep": 1, "gracePeriodSeconds": 30},
        "timeouts": {"startupSeconds": 60, "progressSeconds": 60},
        "output": {"claim": "models", "path": "assistant"},
    }


def plan_of(dataset: dict[str, Any], **changes: Any) -> TrainingPlan:
    """The plan with the given data set, and fields replaced at the top."""
    return TrainingPlan.model_validate(raw_plan(dataset) | changes)


def merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge changes into a JSON object; None removes."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        elif value is None:
            base.pop(key, None)
        else:
            # A copy: what is merged into it later is not for whoever gave it.
            base[key] = deepcopy(value)
    return base

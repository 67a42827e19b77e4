"""A small PPO plan for tests of data, evaluation and publishing: everything but the data sets is the same."""

from typing import Any

from rlhf_operator.api.plan import TrainingPlan


def plan_of(dataset: dict[str, Any], **changes: Any) -> TrainingPlan:
    """A PPO plan with the given data set, and fields changed at the top."""
    base: dict[str, Any] = {
        "name": "job",
        "namespace": "default",
        "image": "trainer:1",
        "algorithm": "PPO",
        "baseModel": {"path": "/rlhf/claims/models/base", "ref": "pvc://models/base"},
        "dataset": dataset,
        "training": {"steps": 2, "batchSize": 4, "seed": 17},
        "optimizer": {"learningRate": 1e-5},
        "generation": {"maxPromptLength": 64, "maxResponseLength": 64},
        "compute": {
            "workers": 1,
            "procsPerWorker": 1,
            "gpusPerWorker": 0,
            "zeroStage": 0,
            "offload": "None",
            "precision": "fp32",
            "gradientCheckpointing": False,
            "attention": "auto",
            "deterministic": False,
        },
        "checkpoints": {"everySteps": 1, "keep": 1, "gracePeriodSeconds": 30},
        "timeouts": {"startupSeconds": 60, "progressSeconds": 60},
        "output": {"claim": "models", "path": "assistant"},
    }
    return TrainingPlan.model_validate(base | changes)

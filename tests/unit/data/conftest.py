"""Plans for data tests: everything but the data sets is the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]


@pytest.fixture
def make_plan() -> MakePlan:
    """A PPO plan with the given data set, and fields changed at the top."""

    def make(dataset: dict[str, Any], **changes: Any) -> TrainingPlan:
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

    return make


def dataset(path: Path, name: str = "train", format_: str = "Prompts", **more: Any) -> dict[str, Any]:
    """A data set of a plan."""
    base = {"name": name, "path": str(path), "ref": f"pvc://data/{path.name}", "format": format_, "columns": {}}
    return base | more


def evaluation(path: Path, **more: Any) -> dict[str, Any]:
    """An evaluation block of a plan."""
    return {"dataset": dataset(path, "evaluation"), "baselines": ["Base"], "scorers": [], **more}


def write_lines(path: Path, *rows: Any) -> Path:
    """A JSONL file; text and bytes go in as they are."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def words(texts: list[str]) -> list[list[int]]:
    """One token per word."""
    return [list(range(len(text.split()))) for text in texts]

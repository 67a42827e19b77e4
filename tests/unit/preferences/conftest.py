"""Plans of reward models and files of judged rows: everything but the data is the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.rewardplan import RewardPlan
from smallplan import plan_of

MakePlan = Callable[..., RewardPlan]
THREE = {"responses": ["a", "b"], "annotators": ["x", "y", "z"]}


def dataset(path: Path, name: str = "train", format_: str = "Pairs", **columns: Any) -> dict[str, Any]:
    """A data set of a plan."""
    return {"name": name, "path": str(path), "ref": f"pvc://data/{path.name}", "format": format_, "columns": columns}


def reward_plan(data: dict[str, Any] | None, **changes: Any) -> RewardPlan:
    """A RewardPlan that trains on the data, fields changed at the top; `aggregation` and `seed` go into train."""
    base = plan_of({"name": "train", "path": "/x", "ref": "x", "format": "Prompts", "columns": {}}).dump()
    kept = ("name", "namespace", "image", "compute", "checkpoints", "timeouts", "output")
    values: dict[str, Any] = {name: base[name] for name in kept} | {"dimensions": ["overall"]}
    if data is not None:
        values["train"] = {
            "baseModel": {"path": "/rlhf/claims/models/base", "ref": "pvc://models/base"},
            "dataset": data,
            "aggregation": changes.pop("aggregation", {}),
            "epochs": 1,
            "batchSize": 8,
            "seed": changes.pop("seed", 17),
            "optimizer": {"learningRate": 1e-5},
            "maxLength": 128,
        }
        values["evaluation"] = {"heldOutFraction": 0.2}
    return RewardPlan.model_validate(values | changes)


def write_lines(path: Path, *rows: Any) -> Path:
    """A JSONL file; text and bytes go in as they are."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Pairs of one annotator, each with a prompt of its own that resembles no other."""
    return [
        {"prompt": f"{word(at)} {word(at + 7)} question", "chosen": f"good {word(at)}", "rejected": f"bad {word(at)}"}
        for at in range(start, start + count)
    ]


def word(number: int) -> str:
    """A word of its own for every number."""
    letters = "bcdfghjklmnpqrstvwxz"
    return "".join(letters[(number // 20**place) % 20] + "aeiou"[(number * 7 + place) % 5] for place in range(4))


@pytest.fixture
def make_plan() -> MakePlan:
    return reward_plan

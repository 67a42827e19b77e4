"""Small data sets for tests of data, evaluation and publishing: their blocks in a plan, and their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_operator.api.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]


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

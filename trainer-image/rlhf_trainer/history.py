"""Every step's figures, kept for the curves that a run leaves. One file per attempt, each under its own folder."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from .fencing import Workspace

METRICS_FILE = "metrics.jsonl"

_LINE: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, float])


class History:
    """Appends the figures of this attempt's steps; a line that a kill cut short is no harm."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / METRICS_FILE).open("a")

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep one step."""
        print(json.dumps({"step": step, **figures}), file=self._file, flush=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_history(workspace: Workspace) -> dict[int, dict[str, float]]:
    """Figures by step, in order; of a step that was done again, those of the newest attempt."""
    found: dict[int, dict[str, float]] = {}
    paths = [folder / METRICS_FILE for folder in workspace.attempt_folders()]
    for path in filter(Path.is_file, paths):
        for line in path.read_text().splitlines():
            try:
                figures = _LINE.validate_json(line)
                found[int(figures.pop("step"))] = figures
            except (ValidationError, KeyError):
                continue
    return dict(sorted(found.items()))

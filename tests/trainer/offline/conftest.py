"""Worlds of given responses, and the end of every process that a test leaves behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from .small import MakeWorld, OfflineWorld

# Models this small wait for their threads longer than they compute.
torch.set_num_threads(1)


@pytest.fixture
def offline_world(tmp_path: Path) -> Iterator[MakeWorld]:
    """Make worlds below the test's folder; changes go into the plan."""
    made: list[OfflineWorld] = []

    def make(algorithm: str, name: str = "world", **changes: Any) -> OfflineWorld:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        made.append(OfflineWorld(root, changes, algorithm=algorithm))
        return made[-1]

    yield make
    for one in made:
        for run in one.runs:
            if run.process.poll() is None:
                run.kill()

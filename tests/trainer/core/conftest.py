"""Worlds to train in, and the end of every process that a test leaves behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .tiny import Run, World, free_port


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make worlds below the test's folder; changes go into the plan."""
    made: list[World] = []

    def make(name: str = "world", **changes: Any) -> World:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        made.append(World(root, changes))
        return made[-1]

    yield make
    for one in made:
        for run in one.runs:
            if run.process.poll() is None:
                run.kill()


@pytest.fixture
def pods() -> Callable[..., list[Run]]:
    """Start one launcher per worker, as the pods of one attempt."""

    def start(world: World, workers: int = 2, **options: Any) -> list[Run]:
        port = free_port()
        return [world.start(index=index, workers=workers, port=port, **options) for index in range(workers)]

    return start

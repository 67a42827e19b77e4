"""A hub and a store for every test that asks for one, and plans that name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remotekit.hub import Hub
from remotekit.store import Store
from rlhf_operator.api.plan import TrainingPlan
from smallplan import plan_of


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    # The library has read its variable when it was imported; the trainer fetches in a process of its own.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rlhf_trainer.remote.trouble.WAITS_SECONDS", (0.01, 0.01))
    yield server
    server.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    server = Store(tmp_path_factory.mktemp("store"))
    yield server
    server.close()


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., TrainingPlan]:
    """A plan whose data set comes from outside; what else it names is not touched by fetching."""

    def make(fetch: dict[str, Any], **more: Any) -> TrainingPlan:
        source = {"path": str(tmp_path / "sources" / "data" / "content"), "ref": "outside", "fetch": fetch}
        return plan_of({"name": "train", "format": "Prompts", "columns": {}, **source, **more})

    return make

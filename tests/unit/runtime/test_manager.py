"""When a key comes back: what a refused write's own plan says, and not the plan that was refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_operator.common.intents import Plan, WriteFailure
from rlhf_operator.common.resources import JOBS, RLHFJOBS
from rlhf_operator.runtime.executor import WriteRefused
from rlhf_operator.runtime.manager import Key, Manager

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
KEY = Key(RLHFJOBS.kind, "team", "assistant")
OBJ = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": "assistant", "namespace": "team"}}


class Controller:
    """Plans a write that is refused, and knows when to try again."""

    resource = RLHFJOBS
    children = ()

    async def observe(self, obj: Any, reader: Any) -> Any:
        return obj

    def reconcile(self, observed: Any, now: datetime) -> Plan:
        return Plan(wake_at=now + timedelta(hours=1))

    def write_failed(self, observed: Any, now: datetime, failure: WriteFailure) -> Plan:
        return Plan(wake_at=None if failure.retriable else now + timedelta(minutes=1))

    def phase(self, obj: Any) -> str:
        return "Pending"


class Executor:
    """Refuses every plan."""

    def __init__(self, failure: WriteFailure) -> None:
        self.failure = failure
        self.told: list[Plan] = []

    async def execute(self, obj: Any, plan: Plan) -> None:
        raise WriteRefused(self.failure)

    async def report(self, obj: Any, plan: Plan) -> None:
        self.told.append(plan)


class Queue:
    """Notes what becomes of a key."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float | None]] = []

    def done(self, key: Key, wake_after: float | None = None) -> None:
        self.calls.append(("done", wake_after))

    def failed(self, key: Key) -> float:
        self.calls.append(("failed", None))
        return 1.0


@pytest.mark.parametrize(("retriable", "expected"), [(False, ("done", 60.0)), (True, ("failed", None))])
async def test_a_refused_write_comes_back(retriable: bool, expected: tuple[str, float | None]) -> None:
    failure = WriteFailure("create", JOBS, "team", "assistant-train-1", "Invalid", "no", retriable)
    executor, queue = Executor(failure), Queue()
    manager: Any = Manager([Controller()], queue, SimpleNamespace(), lambda: NOW)  # type: ignore[arg-type]
    outcome = manager._observe_decide_act(KEY, Controller(), OBJ, None, executor)
    assert await outcome == "refused"
    assert queue.calls == [expected]
    assert len(executor.told) == 1

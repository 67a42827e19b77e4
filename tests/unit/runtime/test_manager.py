"""When a key comes back: what a refused write's own plan says, and not the plan that was refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_operator.common.intents import Plan, WriteFailure
from rlhf_operator.common.resources import JOBS, RLHFJOBS
from rlhf_operator.runtime.executor import WriteRefused
from rlhf_operator.runtime.manager import Key, Manager
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import KeyedQueue

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

    def add(self, key: Key) -> None:
        """Something else has changed."""


@pytest.mark.parametrize(("retriable", "expected"), [(False, ("done", 60.0)), (True, ("failed", None))])
async def test_a_refused_write_comes_back(retriable: bool, expected: tuple[str, float | None]) -> None:
    failure = WriteFailure("create", JOBS, "team", "assistant-train-1", "Invalid", "no", retriable)
    executor, queue = Executor(failure), Queue()
    manager: Any = Manager([Controller()], queue, SimpleNamespace(), lambda: NOW)  # type: ignore[arg-type]
    outcome = manager._observe_decide_act(KEY, Controller(), OBJ, None, executor)
    assert await outcome == "refused"
    assert queue.calls == [expected]
    assert len(executor.told) == 1


class Restless(Controller):
    """Its status is another one in every pass."""

    def reconcile(self, observed: Any, now: datetime) -> Plan:
        return Plan(status={"phase": "Pending"})


class Writes:
    """Writes every status."""

    async def execute(self, obj: Any, plan: Plan) -> bool:
        return True


async def test_what_waits_for_a_status_to_be_on_record_is_never_forgotten() -> None:
    """Nothing else wakes it: a write of our own, however many came before it, is followed by another look."""
    queue, controller = Queue(), Restless()
    manager: Any = Manager([controller], queue, SimpleNamespace(), lambda: NOW)  # type: ignore[arg-type,list-item]
    for _ in range(12):
        await manager._observe_decide_act(KEY, controller, OBJ, None, Writes())
    waits = [wait for _, wait in queue.calls]
    assert None not in waits, waits
    # One that is never at rest is looked at ever less often.
    assert waits[0] == 1.0
    assert waits == sorted(waits)
    assert waits[-1] == 60.0
    manager._started.add(KEY.kind)
    manager._poke(KEY)
    await manager._observe_decide_act(KEY, controller, OBJ, None, Writes())
    assert queue.calls[-1] == ("done", 1.0), "what others changed is no restlessness of ours"


async def test_the_lease_and_the_probes_get_their_turn_between_looks_that_wait_for_nothing() -> None:
    queue: KeyedQueue[Key] = KeyedQueue()
    manager: Any = Manager([Controller()], queue, Metrics(), lambda: NOW)
    nothing = SimpleNamespace(entry=lambda key: None)
    manager.connect(SimpleNamespace(stores={RLHFJOBS: nothing}), object(), object())
    for number in range(100):
        queue.add(Key(RLHFJOBS.kind, "team", f"job-{number}"))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while queue.depth:
            turns += 1
            await asyncio.sleep(0)

    worker = asyncio.create_task(manager.work())
    await others()
    queue.close()
    await worker
    assert turns >= 100

"""The queue: bounds, order, shared batches, cancelled requests, and when to come again."""

import asyncio
from collections.abc import Sequence

import pytest

from rlhf_server.judge.engine import EngineAway, Scored
from rlhf_server.judge.errors import QueueFull
from rlhf_server.judge.queue import Queue
from rlhf_server.judge.schema import ScoreItem


class Gate:
    """An engine whose batches wait until the test lets them go; a response is its own score."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.waiting: list[asyncio.Future[None]] = []

    async def score(self, items: Sequence[ScoreItem]) -> list[Scored]:
        self.batches.append([item.response for item in items])
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]
        return [{"overall": float(item.response)} for item in items]

    async def batch(self, number: int) -> asyncio.Future[None]:
        """The future that ends batch `number`, once the batch is at the engine."""
        async with asyncio.timeout(10):
            while len(self.waiting) <= number:  # noqa: ASYNC110 - a condition with a deadline
                await asyncio.sleep(0)
        return self.waiting[number]


def items(*numbers: int) -> list[ScoreItem]:
    return [ScoreItem(prompt="p", response=str(number)) for number in numbers]


def queue(gate: Gate, depth: int = 8, batch_size: int = 4, concurrency: int = 1) -> Queue:
    made = Queue(gate.score, depth=depth, batch_size=batch_size, concurrency=concurrency)
    made.start()
    return made


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_share_batches_and_each_gets_its_own_scores_in_order() -> None:
    gate = Gate()
    served = queue(gate)
    first = asyncio.create_task(served.submit(items(1)))
    await gate.batch(0)
    others = [asyncio.create_task(served.submit(items(*group))) for group in ((2, 3), (4,), (5, 6))]
    await turn()
    assert served.size == 6
    gate.waiting[0].set_result(None)
    (await gate.batch(1)).set_result(None)
    (await gate.batch(2)).set_result(None)
    assert gate.batches == [["1"], ["2", "3", "4", "5"], ["6"]]
    assert await first == [{"overall": 1.0}]
    assert [await task for task in others] == [
        [{"overall": 2.0}, {"overall": 3.0}],
        [{"overall": 4.0}],
        [{"overall": 5.0}, {"overall": 6.0}],
    ]
    assert served.size == 0
    await served.close()


async def test_a_request_that_does_not_fit_whole_is_refused_and_costs_the_others_nothing() -> None:
    gate = Gate()
    served = queue(gate, depth=4)
    first = asyncio.create_task(served.submit(items(1, 2, 3)))
    await gate.batch(0)
    with pytest.raises(QueueFull) as refused:
        await served.submit(items(4, 5))
    assert refused.value.retry_after_seconds == 1
    assert served.size == 3
    fits = asyncio.create_task(served.submit(items(6)))
    await turn()
    gate.waiting[0].set_result(None)
    (await gate.batch(1)).set_result(None)
    assert await fits == [{"overall": 6.0}]
    assert len(await first) == 3
    await served.close()


async def test_a_cancelled_request_leaves_the_queue() -> None:
    gate = Gate()
    served = queue(gate, depth=4)
    first = asyncio.create_task(served.submit(items(1)))
    await gate.batch(0)
    gone = asyncio.create_task(served.submit(items(2, 3, 4)))
    await turn()
    gone.cancel()
    await turn()
    assert served.size == 1
    last = asyncio.create_task(served.submit(items(5, 6, 7)))
    await turn()
    gate.waiting[0].set_result(None)
    (await gate.batch(1)).set_result(None)
    await asyncio.gather(first, last)
    assert gate.batches == [["1"], ["5", "6", "7"]], "what was cancelled never reached the engine"
    await served.close()


async def test_a_failed_batch_fails_every_request_in_it_and_takes_their_rest_along() -> None:
    gate = Gate()
    served = queue(gate, batch_size=2)
    whole = asyncio.create_task(served.submit(items(1, 2, 3, 4)))
    other = asyncio.create_task(served.submit(items(5)))
    (await gate.batch(0)).set_exception(EngineAway("gone"))
    with pytest.raises(EngineAway):
        await whole
    (await gate.batch(1)).set_result(None)
    assert await other == [{"overall": 5.0}]
    assert gate.batches == [["1", "2"], ["5"]]
    assert served.size == 0
    await served.close()


async def test_retry_after_follows_the_rate_of_the_last_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("rlhf_server.judge.queue.time.monotonic", lambda: now)
    gate = Gate()
    served = queue(gate, depth=100, batch_size=4)
    first = asyncio.create_task(served.submit(items(1, 2, 3, 4)))
    ending = await gate.batch(0)
    now = 2.0  # two texts a second
    ending.set_result(None)
    await first
    assert served.retry_after_seconds() == 1
    waits = asyncio.create_task(served.submit(items(*range(21))))
    await turn()
    assert served.retry_after_seconds() == 11
    more = asyncio.create_task(served.submit(items(*range(79))))
    await turn()
    assert served.retry_after_seconds() == 50
    with pytest.raises(QueueFull) as refused:
        await served.submit(items(1))
    assert refused.value.retry_after_seconds == 50
    for task in (waits, more):
        task.cancel()
    await served.close()


async def test_a_queue_that_closes_leaves_nobody_waiting() -> None:
    gate = Gate()
    served = queue(gate, batch_size=1)
    tasks = [asyncio.create_task(served.submit(items(number))) for number in range(3)]
    await gate.batch(0)
    await served.close()
    async with asyncio.timeout(5):
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError)

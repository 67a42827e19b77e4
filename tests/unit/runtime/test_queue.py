"""The queue on an event loop whose clock the tests move: nothing here waits for real."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from rlhf_operator.runtime.queue import KeyedQueue
from rlhf_operator.runtime.schedule import Backoff, Schedule


class MovedClockLoop(asyncio.SelectorEventLoop):
    """Time stands still until all is done that can be done, then jumps to the next timer."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@pytest.fixture
def loop() -> Iterator[MovedClockLoop]:
    loop = MovedClockLoop()
    yield loop
    loop.close()


def queue() -> KeyedQueue[str]:
    return KeyedQueue(Schedule(Backoff(base_seconds=1, max_seconds=60, jitter=0.0)))


def test_a_worker_wakes_when_a_key_comes(loop: MovedClockLoop) -> None:
    async def main() -> None:
        keys = queue()
        taking = asyncio.create_task(keys.get())
        await asyncio.sleep(5)
        assert not taking.done()
        keys.add("a")
        assert await taking == "a"

    loop.run_until_complete(main())


def test_a_delayed_key_comes_at_its_time_though_nobody_touches_the_queue(loop: MovedClockLoop) -> None:
    async def main() -> None:
        keys = queue()
        keys.add_after("late", 300)
        keys.add_after("soon", 20)
        assert await keys.get() == "soon"
        assert loop.time() == pytest.approx(20)
        assert await keys.get() == "late"
        assert loop.time() == pytest.approx(300)

    loop.run_until_complete(main())


def test_an_earlier_wake_up_brings_the_timer_forward(loop: MovedClockLoop) -> None:
    async def main() -> None:
        keys = queue()
        keys.add_after("a", 300)
        taking = asyncio.create_task(keys.get())
        await asyncio.sleep(1)
        keys.add_after("a", 9)
        assert await taking == "a"
        assert loop.time() == pytest.approx(10)

    loop.run_until_complete(main())


def test_keys_due_in_the_same_moment_go_to_different_workers(loop: MovedClockLoop) -> None:
    async def main() -> None:
        keys = queue()
        for key in "abc":
            keys.add_after(key, 7)
        taken = await asyncio.gather(*(keys.get() for _ in range(3)))
        assert sorted(str(key) for key in taken) == ["a", "b", "c"]
        assert loop.time() == pytest.approx(7)

    loop.run_until_complete(main())


def test_many_workers_never_hold_one_key_at_a_time(loop: MovedClockLoop) -> None:
    async def main() -> None:
        keys = queue()
        held: set[str] = set()
        done = 0

        async def work() -> None:
            nonlocal done
            while (key := await keys.get()) is not None:
                assert key not in held
                held.add(key)
                await asyncio.sleep(1)
                held.discard(key)
                done += 1
                keys.done(key)

        workers = [asyncio.create_task(work()) for _ in range(8)]
        for _ in range(20):
            for key in "abc":
                keys.add(key)
            await asyncio.sleep(0.3)
        await keys.drained()
        await asyncio.sleep(3)
        keys.close()
        await asyncio.gather(*workers)
        # 6 s of changes, a second each: what came during the work was done after it, and no more often than that.
        assert 3 * 6 <= done <= 3 * 9

    loop.run_until_complete(main())


def test_closing_wakes_every_worker_and_draining_waits_for_what_is_in_work(loop: MovedClockLoop) -> None:
    async def main() -> None:
        keys = queue()
        keys.add("a")
        assert await keys.get() == "a"
        idle = [asyncio.create_task(keys.get()) for _ in range(3)]
        await asyncio.sleep(0)
        keys.close()
        assert await asyncio.gather(*idle) == [None, None, None]
        drained = asyncio.create_task(keys.drained())
        await asyncio.sleep(1)
        assert not drained.done()
        keys.failed("a")
        await drained
        assert await keys.get() is None

    loop.run_until_complete(main())


def test_a_worker_that_is_cancelled_while_it_waits_loses_no_key(loop: MovedClockLoop) -> None:
    async def main() -> None:
        keys = queue()
        first, second = asyncio.create_task(keys.get()), asyncio.create_task(keys.get())
        await asyncio.sleep(0)
        keys.add("a")
        first.cancel()
        assert await second == "a"

    loop.run_until_complete(main())

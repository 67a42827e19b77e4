"""The queue between requests and the engine: bounded in texts, served in order, in batches that requests share."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from .engine import Scored
from .errors import QueueFull
from .schema import ScoreItem

Score = Callable[[Sequence[ScoreItem]], Awaitable[list[Scored]]]

_RATE_BATCHES = 64
_MAX_RETRY_SECONDS = 60


@dataclass(eq=False, slots=True)
class _Request:
    items: Sequence[ScoreItem]
    done: "asyncio.Future[None]"
    results: list[Scored | None]
    left: int


@dataclass(slots=True)
class _Rate:
    """How fast the last batches went, while there was work."""

    batches: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_RATE_BATCHES))

    def note(self, texts: int, seconds: float) -> None:
        self.batches.append((texts, seconds))

    def texts_per_second(self, concurrency: int) -> float | None:
        seconds = sum(seconds for _, seconds in self.batches)
        return sum(texts for texts, _ in self.batches) * concurrency / seconds if seconds > 0 else None


class Queue:
    """Takes requests as long as there is room for all their texts."""

    def __init__(self, score: Score, *, depth: int, batch_size: int, concurrency: int) -> None:
        """depth: most texts that wait or are at the engine. concurrency: batches at the engine at one time."""
        self._score = score
        self._depth = depth
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._waiting: deque[tuple[_Request, int]] = deque()
        self._running = 0
        self._rate = _Rate()
        self._work = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []

    @property
    def size(self) -> int:
        """Texts that wait or are being scored."""
        return len(self._waiting) + self._running

    def start(self) -> None:
        """Begin to serve."""
        self._workers = [asyncio.create_task(self._serve()) for _ in range(self._concurrency)]

    async def close(self) -> None:
        """Stop; what still waits is cancelled."""
        for worker in self._workers:
            worker.cancel()
        for worker in self._workers:
            with contextlib.suppress(asyncio.CancelledError):
                await worker
        for request, _ in self._waiting:
            request.done.cancel()
        self._waiting.clear()

    async def submit(self, items: Sequence[ScoreItem]) -> list[Scored]:
        """Score a request's items. Cancelling this takes them out of the queue.

        Raises QueueFull, or what the engine raised for a batch with one of them in it.
        """
        if self.size + len(items) > self._depth:
            raise QueueFull(
                f"{self.size} texts wait already, and {len(items)} more would exceed {self._depth}: come again later",
                retry_after_seconds=self.retry_after_seconds(),
            )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = _Request(items, done, [None] * len(items), len(items))
        self._waiting.extend((request, index) for index in range(len(items)))
        self._work.set()
        try:
            await done
        except BaseException:
            self._forget({request})
            raise
        return [result for result in request.results if result is not None]

    def retry_after_seconds(self) -> int:
        """When what waits now will be done, by the rate of the last batches: 1 to 60."""
        rate = self._rate.texts_per_second(self._concurrency)
        if rate is None:
            return 1
        return min(_MAX_RETRY_SECONDS, max(1, math.ceil(self.size / rate)))

    async def _serve(self) -> None:
        while True:
            while not self._waiting:
                self._work.clear()
                await self._work.wait()
            batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
            self._running += len(batch)
            started = time.monotonic()
            try:
                results = await self._score([request.items[index] for request, index in batch])
            except asyncio.CancelledError:
                self._fail(batch, None)
                raise
            except Exception as error:
                self._fail(batch, error)
            else:
                self._rate.note(len(batch), time.monotonic() - started)
                for (request, index), result in zip(batch, results, strict=True):
                    _finish(request, index, result)
            finally:
                self._running -= len(batch)

    def _fail(self, batch: Sequence[tuple[_Request, int]], error: Exception | None) -> None:
        """End every request with a text in the batch; None cancels."""
        failed = {request for request, _ in batch}
        self._forget(failed)
        for request in failed:
            if request.done.done():
                continue
            if error is None:
                request.done.cancel()
            else:
                request.done.set_exception(error)

    def _forget(self, requests: set[_Request]) -> None:
        """Take what waits of these requests out of the queue."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] not in requests)


def _finish(request: _Request, index: int, result: Scored) -> None:
    request.results[index] = result
    request.left -= 1
    if request.left == 0 and not request.done.done():
        request.done.set_result(None)

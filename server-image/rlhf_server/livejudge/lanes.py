"""One lane per scorer: work waits here, bounded, while its scorer is slow or away, and is given up when too old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

from rlhf_operator.api.signals import LiveScorer
from rlhf_scoring.errors import ScoringError
from rlhf_scoring.judge import Missing

from .asking import Asker, Found, Work

_log = logging.getLogger(__name__)
_ATTEMPTS = 3
_WORDS = 300
_CLOSE_SECONDS = 5.0
_MAX_RETRY_SECONDS = 60


class Unscored(StrEnum):
    """Why a scorer gave no verdict: label `reason` of rlhf_live_judge_unscored_total."""

    MISSING = "missing"
    """The scorer has none for this answer, or leaves it out."""
    TIMED_OUT = "timed_out"
    LATE = "late"
    """The scorer was away, or of another version, for longer than a sample waits."""
    FULL = "full"
    """Too much waited for this scorer."""
    FAILED = "failed"
    """A defect; the log says where."""
    REMOVED = "removed"
    """The plan no longer has the scorer, or the judge ended."""


Counted = Callable[[LiveScorer, Work, Found], None]
Lost = Callable[[LiveScorer, Work, Unscored], None]


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What every lane has alike."""

    samples: int
    batch: int
    ask_seconds: float
    retry_seconds: float


@dataclass(slots=True)
class _Waiting:
    work: Work
    size: int
    since: float
    attempts: int = 0


@dataclass(slots=True)
class _Rate:
    batches: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=64))

    def seconds_each(self) -> float:
        done = sum(count for count, _ in self.batches)
        return sum(seconds for _, seconds in self.batches) / done if done else 0.0


def _close_built(building: Future[Asker]) -> None:
    if not building.cancelled() and building.exception() is None:
        building.result().close()


class Lane:
    """The work of one scorer. One event loop owns it; the scorer is asked in a thread of the lane's own."""

    def __init__(
        self, scorer: LiveScorer, settings: LaneSettings, keep_seconds: float, counted: Counted, lost: Lost
    ) -> None:
        """keep_seconds: how long work waits for a scorer that is away."""
        self.scorer = scorer
        self.keep_seconds = keep_seconds
        self.limit_bytes = 0
        """Most bytes that may wait; who owns the lanes shares them out."""
        self.trouble = "it has not been asked yet"
        """Why the scorer can't be asked; empty when it can."""
        self.version = ""
        """Which version judges; empty until it is known."""
        self._settings = settings
        self._counted = counted
        self._lost = lost
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._running = 0
        self._rate = _Rate()
        self._wake = asyncio.Event()
        self._asker: Asker | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"scorer-{scorer.name}")
        self._task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """Answers and pairs that wait or are being judged."""
        return len(self._waiting) + self._running

    @property
    def bytes(self) -> int:
        """What waits, in bytes."""
        return self._bytes

    def has_room(self, samples: int, size: int) -> bool:
        """Whether that much more may come; an empty lane takes anything."""
        if self.size == 0:
            return True
        return self.size + samples <= self._settings.samples and self._bytes + size <= self.limit_bytes

    def retry_after_seconds(self) -> int:
        """When what waits now will be done, by the rate of the last batches: 1 to 60."""
        return min(_MAX_RETRY_SECONDS, max(1, math.ceil(self.size * self._rate.seconds_each())))

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._serve())

    def offer(self, work: Work, size: int, now: float) -> None:
        """Take work; what does not fit is lost and counted."""
        if not self.has_room(1, size):
            self._lost(self.scorer, work, Unscored.FULL)
            return
        self._waiting.append(_Waiting(work, size, now))
        self._bytes += size
        self._wake.set()

    async def close(self) -> None:
        """Stop; what waits is lost and counted. A question that is under way is broken off."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for waiting in self._waiting:
            self._lost(self.scorer, waiting.work, Unscored.REMOVED)
        self._waiting.clear()
        self._bytes = 0
        if self._asker is not None:
            # Not in the lane's own thread, which may wait for the scorer for long.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(asyncio.to_thread(self._asker.close), _CLOSE_SECONDS)
        self._thread.shutdown(wait=False)

    async def _serve(self) -> None:
        while True:
            try:
                if self._asker is None:
                    await self._connect()
                await self._wait_for_work()
                await self._ask_once(self._asker)
            except ScoringError as error:
                await self._away(str(error))
            except Exception as error:
                # A lane must outlive whatever an answer does to a scorer.
                _log.exception("a scorer failed", extra={"scorer": self.scorer.name})
                await self._away(f"it failed with {type(error).__name__}; the log says where")

    async def _connect(self) -> None:
        building = self._thread.submit(Asker, self.scorer, self._settings.ask_seconds)
        try:
            self._asker = await asyncio.wrap_future(building)
        except asyncio.CancelledError:
            # The thread goes on; what it has built by then may hold processes.
            building.add_done_callback(_close_built)
            raise
        if self._asker.version != self.version:
            _log.info("a scorer judges", extra={"scorer": self.scorer.name, "version": self._asker.version})
        self.version = self._asker.version
        self.trouble = ""

    async def _wait_for_work(self) -> None:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()

    async def _ask_once(self, asker: Asker | None) -> None:
        self._give_up_late()
        if asker is None or not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(min(self._settings.batch, len(self._waiting)))]
        self._running = len(batch)
        started = time.monotonic()
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._thread, asker.ask, [waiting.work for waiting in batch]
            )
        except ScoringError:
            # Its version changed, or its address is another's now: the answers are as good as before.
            self._put_back([waiting for waiting in batch if self._may_ask_again(waiting, Unscored.FAILED)])
            raise
        except asyncio.CancelledError:
            self._drop(batch, Unscored.REMOVED)
            raise
        except Exception:
            self._drop(batch, Unscored.FAILED)
            raise
        finally:
            self._running = 0
        self._rate.batches.append((len(batch), time.monotonic() - started))
        late = []
        for waiting, verdict in zip(batch, found, strict=True):
            if isinstance(verdict, Missing) and verdict.timed_out:
                late.append(waiting)
            elif isinstance(verdict, Missing):
                self._drop([waiting], Unscored.MISSING)
            else:
                self._bytes -= waiting.size
                self._counted(self.scorer, waiting.work, verdict)
        self._put_back([waiting for waiting in late if self._may_ask_again(waiting, Unscored.TIMED_OUT)])
        if len(late) == len(batch):
            await self._away("it gave no verdict in time")

    def _may_ask_again(self, waiting: _Waiting, why: Unscored) -> bool:
        """Whether work that got no verdict is asked for again; otherwise it is lost."""
        waiting.attempts += 1
        if waiting.attempts < _ATTEMPTS:
            return True
        self._drop([waiting], why)
        return False

    async def _away(self, why: str) -> None:
        """Say so, and try anew after a pause: it may be of another version by then."""
        if why[:_WORDS] != self.trouble:
            _log.warning("a scorer can't be asked", extra={"scorer": self.scorer.name, "why": why[:_WORDS]})
        self.trouble = why[:_WORDS]
        if self._asker is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._asker.close)
            self._asker = None
        await asyncio.sleep(self._settings.retry_seconds)
        self._give_up_late()

    def _put_back(self, batch: list[_Waiting]) -> None:
        self._waiting.extendleft(reversed(batch))

    def _give_up_late(self) -> None:
        before = time.monotonic() - self.keep_seconds
        while self._waiting and self._waiting[0].since < before:
            self._drop([self._waiting.popleft()], Unscored.LATE)

    def _drop(self, batch: list[_Waiting], why: Unscored) -> None:
        for waiting in batch:
            self._bytes -= waiting.size
            self._lost(self.scorer, waiting.work, why)

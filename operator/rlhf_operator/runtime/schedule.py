"""Which key is reconciled when: dedupe, one at a time per key, delays, back-off. Pure: no event loop, no clock.

Every method that needs the time is given it, in seconds of any monotonic clock.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with full-width jitter so that keys that failed together don't return together."""

    base_seconds: float = 0.5
    max_seconds: float = 300.0
    jitter: float = 0.5

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after this many failures in a row, between (1 - jitter) and 1 of the doubled base."""
        full = min(self.max_seconds, self.base_seconds * 2.0 ** min(failures - 1, 60))
        return full * (1 - self.jitter * rng.random())


class Schedule(Generic[K]):
    """Keys that are ready, in work, or due later.

    A key is in at most one of ready and in work. A key that is added while in work becomes ready again when its work
    ends. A key has at most one due time: the earliest that was asked for since its last reconcile began.
    """

    def __init__(self, backoff: Backoff | None = None, rng: random.Random | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._rng = rng or random.Random()  # noqa: S311 - jitter guards nothing
        self._ready: OrderedDict[K, None] = OrderedDict()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._failures: dict[K, int] = {}

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._ready) + len(self._again)

    @property
    def working(self) -> int:
        """Keys in work."""
        return len(self._working)

    @property
    def delayed(self) -> int:
        """Keys that are due later."""
        return len(self._due)

    def add(self, key: K) -> None:
        """Reconcile this key as soon as a worker is free."""
        if key in self._working:
            self._again.add(key)
        else:
            self._ready[key] = None

    def add_at(self, key: K, due: float) -> None:
        """Reconcile this key no later than at this time."""
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        # Superseded entries stay in the heap; they must not outnumber the living.
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due):
            self._heap = [(when, number, k) for when, number, k in self._heap if self._due.get(k) == when]
            heapq.heapify(self._heap)

    def next_due(self) -> float | None:
        """The earliest due time; None when nothing is due ever."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> K | None:
        """The next key to work on; None when none is ready. The caller must end it by `done`, `failed` or `drop`."""
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)
        if not self._ready:
            return None
        key, _ = self._ready.popitem(last=False)
        self._working.add(key)
        # What was asked for before this reconcile is answered by it.
        self._due.pop(key, None)
        return key

    def done(self, key: K, wake_at: float | None = None) -> None:
        """The work succeeded: failures are forgotten, and it is due again at `wake_at`."""
        self._failures.pop(key, None)
        self._end(key)
        if wake_at is not None:
            self.add_at(key, wake_at)

    def failed(self, key: K, now: float) -> float:
        """The work failed: due again after a back-off. Returns its seconds."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        self._end(key)
        delay = self._backoff.delay(failures, self._rng)
        self.add_at(key, now + delay)
        return delay

    def drop(self, key: K) -> None:
        """The object is gone: nothing is remembered of it, unless it was added again meanwhile."""
        self._failures.pop(key, None)
        self._due.pop(key, None)
        self._end(key)

    def _end(self, key: K) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._ready[key] = None

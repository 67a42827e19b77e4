"""The schedule on an event loop: workers wait here for keys. Decides nothing that `schedule` does not."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

from rlhf_operator.runtime.schedule import Schedule

K = TypeVar("K", bound=Hashable)


class KeyedQueue(Generic[K]):
    """`get` → work → `done` | `failed` | `drop`. Time is the event loop's own."""

    def __init__(self, schedule: Schedule[K] | None = None) -> None:
        self._schedule: Schedule[K] = schedule or Schedule()
        self._waiters: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return self._schedule.depth

    @property
    def delayed(self) -> int:
        """Keys that are due later."""
        return self._schedule.delayed

    @property
    def working(self) -> int:
        """Keys in work."""
        return self._schedule.working

    def add(self, key: K) -> None:
        """Reconcile this key as soon as a worker is free."""
        self._schedule.add(key)
        self._wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Reconcile this key after so many seconds at the latest."""
        self._schedule.add_at(key, self._now() + seconds)
        self._wake()

    async def get(self) -> K | None:
        """The next key; None once the queue is closed."""
        while not self._closed:
            key = self._schedule.take(self._now())
            if key is not None:
                self._idle.clear()
                # Others may be waiting for what became due in the same moment.
                self._wake()
                return key
            self._arm()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._waiters.remove(waiter)
                # The wake-up that this worker got must reach another.
                self._wake()
                raise
            self._waiters.remove(waiter)
        return None

    def done(self, key: K, wake_after: float | None = None) -> None:
        """The work succeeded; due again after so many seconds."""
        self._schedule.done(key, None if wake_after is None else self._now() + wake_after)
        self._ended()

    def failed(self, key: K) -> float:
        """The work failed; returns the back-off in seconds."""
        delay = self._schedule.failed(key, self._now())
        self._ended()
        return delay

    def drop(self, key: K) -> None:
        """The object is gone."""
        self._schedule.drop(key)
        self._ended()

    def close(self) -> None:
        """Hand out no more keys; every waiting `get` returns None."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def drained(self) -> None:
        """Until no key is in work."""
        await self._idle.wait()

    def _ended(self) -> None:
        if not self._schedule.working:
            self._idle.set()
        self._wake()

    def _wake(self) -> None:
        """Let one waiter look, if there is something to be had; else make sure the next due time is waited for."""
        if self._closed:
            return
        if not self._schedule.depth:
            self._arm()
            return
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
                return

    def _arm(self) -> None:
        due = self._schedule.next_due()
        if self._timer is not None:
            if due is not None and self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and not self._closed:
            self._timer = asyncio.get_running_loop().call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
                return

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

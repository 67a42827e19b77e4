"""The server's side of the worker process: what is offered waits in bounded memory, and what is lost is counted.

No request ever waits for the worker: exchanges are dropped when it can't keep up, is being started again, or is gone.
Feedback waits for its reply, because its sender is told that it is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_operator.api.signals import Role, SignalSettings

from .exchange import Exchange, Kind
from .frames import Reply, WorkerSettings, frame_line

MIB = 1024 * 1024
_WAITING = 1024
_WAITING_BYTES = 32 * MIB
_LARGEST_BYTES = MIB
"""A larger exchange is not recorded: turning it into JSON would hold up the server's loop."""
_UNDER_WAY = 128
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_CLOSE_SECONDS = 10.0
_END_SECONDS = 5.0
_LIMIT = 64 * 1024
_NICE = 10
_log = logging.getLogger(__name__)

Dropped = Callable[[Role, str], None]


class WorkerGone(Exception):
    """Nobody knows whether it was kept: send it again, it is kept once."""


@dataclass(slots=True)
class _Frame:
    number: int
    role: Role
    size: int
    head: Mapping[str, Any]
    content: Exchange | Mapping[str, Any]
    reply: asyncio.Future[Reply] | None = None


@dataclass(slots=True)
class _Waiting:
    """Frames that no worker has yet."""

    frames: deque[_Frame] = field(default_factory=deque)
    size: int = 0

    def add(self, frame: _Frame) -> None:
        self.frames.append(frame)
        self.size += frame.size

    def take(self) -> _Frame:
        frame = self.frames.popleft()
        self.size -= frame.size
        return frame


class Recorder:
    """Hands exchanges and feedback to the worker process; `start` and `close` on the server's loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        signals: Callable[[], SignalSettings],
        dropped: Dropped,
        expired: Callable[[int], None],
    ) -> None:
        """`signals` gives the settings in force; `dropped` counts what is lost by role and reason, `expired` records
        that were deleted because their time was over.
        """
        self._settings, self._signals, self._dropped, self._expired = settings, signals, dropped, expired
        self._waiting = _Waiting()
        self._under_way: dict[int, _Frame] = {}
        self._number = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._running: asyncio.Task[None] | None = None
        self.pid: int | None = None
        """Of the worker, while one runs."""

    async def start(self) -> None:
        """Begin; the worker is not waited for."""
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what is held, for some seconds at most."""
        self._closing = True
        self._wake.set()
        if self._running is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._running, _CLOSE_SECONDS)
        self._lose(self._all(), "stopped")

    def offer(self, exchange: Exchange) -> None:
        """Take it or drop it, and count what is dropped. Never waits, never raises."""
        if exchange.kind is Kind.OTHER:
            return
        if (reason := self._refuses(size := _size(exchange.request) + 4 * len(exchange.answer))) is not None:
            self._dropped(exchange.role, reason)
            return
        settings = self._signals()
        head = {
            "kind": "exchange",
            "redaction": settings.redaction.value,
            "sample_rate": settings.trajectory_sample_rate,
            "retention_seconds": settings.retention_seconds,
        }
        self._add(_Frame(self._next(), exchange.role, size, head, exchange))

    async def keep(self, feedback: Mapping[str, Any]) -> Reply:
        """Keep feedback; its reply. Raises WorkerGone."""
        size = _size(feedback)
        if self._refuses(size) is not None or self._running is None:
            raise WorkerGone("what records feedback is behind or not running")
        head = {"kind": "feedback", "redaction": self._signals().redaction.value}
        frame = _Frame(self._next(), Role.LIVE, size, head, feedback, asyncio.get_running_loop().create_future())
        assert frame.reply is not None
        self._add(frame)
        return await frame.reply

    def _refuses(self, size: int) -> str | None:
        if self._closing:
            return "stopped"
        if size > _LARGEST_BYTES:
            return "too_large"
        if len(self._waiting.frames) >= _WAITING or self._waiting.size + size > _WAITING_BYTES:
            return "behind"
        return None

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _add(self, frame: _Frame) -> None:
        self._waiting.add(frame)
        self._wake.set()

    async def _run(self) -> None:
        """Keep one worker running until closed and everything is written."""
        pause = _FIRST_PAUSE_SECONDS
        while not (self._closing and not self._waiting.frames):
            try:
                done = await self._one_life()
            except OSError as error:
                _log.error("the worker can't be started: %s", error)
                done = 0
            self._lose(list(self._under_way.values()), "worker_lost")
            self._under_way.clear()
            if self._closing and not done:
                return
            if not self._closing:
                # A worker that got something done is not broken: the next one comes soon.
                pause = _FIRST_PAUSE_SECONDS if done else min(pause * 2, _LONGEST_PAUSE_SECONDS)
                _log.warning("the worker ended: another one in %.1f s", pause)
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._until_closing(), pause)

    async def _until_closing(self) -> None:
        while not self._closing:
            self._wake.clear()
            await self._wake.wait()

    async def _one_life(self) -> int:
        """Run one worker to its end; how many replies it gave. Raises OSError."""
        warm = {"warm": self._signals().redaction}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rlhf_server.live.worker",
            self._settings.model_copy(update=warm).model_dump_json(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LIMIT,
            # Signals meant for the server's group don't end it: it ends when the server has.
            start_new_session=True,
        )
        self.pid = process.pid
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        assert process.stdin is not None
        assert process.stdout is not None
        writing = asyncio.create_task(self._write(process.stdin))
        try:
            return await self._read(process.stdout)
        finally:
            self.pid = None
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            process.stdin.close()
            await _ended(process)

    async def _write(self, target: asyncio.StreamWriter) -> None:
        while True:
            while self._waiting.frames and len(self._under_way) < _UNDER_WAY:
                frame = self._waiting.take()
                if frame.reply is not None and frame.reply.cancelled():
                    continue
                self._under_way[frame.number] = frame
                try:
                    target.write(frame_line(frame.number, frame.head, frame.content))
                except (ValueError, TypeError, RecursionError):
                    del self._under_way[frame.number]
                    self._lose([frame], "defect")
                    continue
                try:
                    await target.drain()
                except ConnectionError:
                    return
            if self._closing and not self._waiting.frames:
                target.close()
                return
            if self._waiting.frames:
                self._room.clear()
                await self._room.wait()
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _read(self, source: asyncio.StreamReader) -> int:
        replies = 0
        while line := await source.readline():
            reply = Reply.model_validate_json(line)
            if reply.expired:
                self._expired(reply.expired)
            frame = self._under_way.pop(reply.number, None)
            replies += 1
            self._room.set()
            if frame is None:
                continue
            if frame.reply is None:
                if reply.dropped is not None:
                    self._dropped(frame.role, reply.dropped)
            elif not frame.reply.done():
                frame.reply.set_result(reply)
        return replies

    def _all(self) -> list[_Frame]:
        frames = [*self._under_way.values(), *self._waiting.frames]
        self._under_way.clear()
        self._waiting = _Waiting()
        return frames

    def _lose(self, frames: Sequence[_Frame], reason: str) -> None:
        for frame in frames:
            if frame.reply is None:
                self._dropped(frame.role, reason)
            elif not frame.reply.done():
                frame.reply.set_exception(WorkerGone("what records feedback has just ended"))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for a process whose input is closed, and kill it when it does not end by itself."""
    try:
        await asyncio.wait_for(process.wait(), _END_SECONDS)
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _size(value: Any) -> int:
    """About how many bytes of JSON, and no more work than up to the largest that is taken."""
    left = [value]
    size = 0
    while left and size <= _LARGEST_BYTES:
        each = left.pop()
        size += 8
        if isinstance(each, str):
            size += len(each)
        elif isinstance(each, Mapping):
            left.extend(each.values())
            size += sum(map(len, each))
        elif isinstance(each, Sequence):
            left.extend(each)
    return size

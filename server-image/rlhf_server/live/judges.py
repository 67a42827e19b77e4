"""Tells the live judges of answers: bounded, in batches, fire and forget. What they do never reaches a request."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

import httpx

from rlhf_operator.api.signals import LiveBatch, LiveSample

PATH = "/v1/samples"
_QUEUE_SAMPLES = 512
_QUEUE_CHARS = 8 * 1024 * 1024
_BATCH_SAMPLES = 64
_BATCH_CHARS = 1024 * 1024
_FLUSH_SECONDS = 0.5
_SEND_SECONDS = 3.0
_RESOLVE_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 30.0
_AWAY_SECONDS = 1.0
"""How long one that failed is left alone."""
_log = logging.getLogger(__name__)

Dropped = Callable[[LiveSample, str], None]
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Keys = Callable[[], Sequence[bytes]]


async def resolve(host: str, port: int) -> list[str]:
    """Every address behind a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(entry[4][0]) for entry in found})


def judge_of(request_id: str, addresses: Sequence[str]) -> str:
    """The judge that both halves of a pair go to, by rendezvous hashing: one that comes or goes moves only its own."""
    return max(addresses, key=lambda address: hashlib.sha256(f"{address} {request_id}".encode()).digest())


@dataclass
class _Judge:
    """One address: what waits for it, and until when it wants to be left alone (monotonic seconds)."""

    waiting: deque[LiveSample] = field(default_factory=deque)
    paused_until: float = 0.0
    sending: asyncio.Task[None] | None = None


class Judges:
    """The judges behind one headless Service."""

    def __init__(self, url: str, dropped: Dropped, resolve: Resolve = resolve, keys: Keys = tuple) -> None:
        """keys: gives those that the judges know; the first one is sent, for they may be changed while we run."""
        self._url: SplitResult = urlsplit(url)
        self._dropped, self._resolve, self._keys = dropped, resolve, keys
        self._judges: dict[str, _Judge] = {}
        self._samples = self._chars = 0
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(
            timeout=_SEND_SECONDS, follow_redirects=False, trust_env=False, limits=httpx.Limits(max_connections=32)
        )

    def start(self) -> None:
        """Follow the addresses and send what is offered."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._send_all())]

    async def close(self) -> None:
        """Let go of everything, sent or not."""
        tasks = [*self._tasks, *self._sending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for judge in self._judges.values():
            self._drop(judge.waiting, "stopped")
        await self._client.aclose()

    def offer(self, sample: LiveSample) -> None:
        """Take it or drop it. Never waits, never raises."""
        if not self._judges:
            self._dropped(sample, "no_judge")
        elif self._samples >= _QUEUE_SAMPLES or self._chars + _size(sample) > _QUEUE_CHARS:
            self._dropped(sample, "queue_full")
        else:
            self._samples += 1
            self._chars += _size(sample)
            judge = self._judges[judge_of(sample.request_id, list(self._judges))]
            judge.waiting.append(sample)
            if len(judge.waiting) >= _BATCH_SAMPLES:
                self._wake.set()

    async def look(self) -> None:
        """Learn who is there now. What waited for one that is gone goes where its other half will."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(self._url.hostname or "", port)
        except (OSError, UnicodeError):
            # A name server that does not answer says nothing about the judges.
            return
        orphans: list[LiveSample] = []
        for address in self._judges.keys() - set(addresses):
            gone = self._judges.pop(address)
            orphans.extend(gone.waiting)
            gone.waiting.clear()
        for address in addresses:
            self._judges.setdefault(address, _Judge())
        for sample in orphans:
            if self._judges:
                self._judges[judge_of(sample.request_id, list(self._judges))].waiting.append(sample)
            else:
                self._drop([sample], "no_judge")

    async def _follow(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_RESOLVE_SECONDS if self._judges else 1.0)

    async def _send_all(self) -> None:
        while True:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            now = time.monotonic()
            for address, judge in self._judges.items():
                free = judge.sending is None or judge.sending.done()
                if judge.waiting and free and now >= judge.paused_until:
                    judge.sending = asyncio.create_task(self._send(address, judge))
                    self._sending.add(judge.sending)
                    judge.sending.add_done_callback(self._sending.discard)

    async def _send(self, address: str, judge: _Judge) -> None:
        while judge.waiting and time.monotonic() >= judge.paused_until:
            batch = _batch(judge.waiting)
            reason = "stopped"
            try:
                # The whole exchange: a judge that sends its answer byte by byte is as good as silent.
                async with asyncio.timeout(_SEND_SECONDS):
                    reason = await self._post(address, judge, batch)
            except Exception as error:
                # Whatever it is, it ends here: the batch is lost, and counted.
                reason = "judge_unreachable"
                judge.paused_until = time.monotonic() + _AWAY_SECONDS
                _log.debug("judge %s: %s", address, type(error).__name__)
            finally:
                self._settle(judge, batch, reason)

    def _settle(self, judge: _Judge, batch: Sequence[LiveSample], reason: str) -> None:
        if reason == "later" and any(judge is known for known in self._judges.values()):
            judge.waiting.extendleft(reversed(batch))
        elif reason:
            self._drop(batch, reason)
        else:
            self._forget(batch)

    async def _post(self, address: str, judge: _Judge, batch: Sequence[LiveSample]) -> str:
        """Why the batch is lost; empty: it was taken; `later`: it waits on."""
        host = f"[{address}]" if ":" in address else address
        port = f":{self._url.port}" if self._url.port else ""
        content = LiveBatch(samples=list(batch)).model_dump_json(by_alias=True).encode()
        request = self._client.build_request(
            "POST",
            f"{self._url.scheme}://{host}{port}{self._url.path.rstrip('/')}{PATH}",
            content=content,
            headers={
                "content-type": "application/json",
                "host": self._url.netloc.rpartition("@")[2],
                **_proof(self._keys()),
            },
        )
        # Of the answer only the status is read: a judge that lies can say as much as it likes.
        response = await self._client.send(request, stream=True)
        await response.aclose()
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            judge.paused_until = time.monotonic() + _pause(response.headers.get("retry-after", ""))
            return "later"
        return "" if response.status_code == HTTPStatus.ACCEPTED else "judge_refused"

    def _drop(self, samples: Sequence[LiveSample] | deque[LiveSample], reason: str) -> None:
        for sample in samples:
            self._dropped(sample, reason)
        self._forget(samples)

    def _forget(self, samples: Sequence[LiveSample] | deque[LiveSample]) -> None:
        self._samples -= len(samples)
        self._chars -= sum(map(_size, samples))


def _batch(waiting: deque[LiveSample]) -> list[LiveSample]:
    """The oldest, as many as one request carries; one that is too large goes alone."""
    found = [waiting.popleft()]
    chars = _size(found[0])
    while waiting and len(found) < _BATCH_SAMPLES and chars + _size(waiting[0]) <= _BATCH_CHARS:
        chars += _size(waiting[0])
        found.append(waiting.popleft())
    return found


def _proof(keys: Sequence[bytes]) -> dict[str, str]:
    return {"authorization": f"Bearer {keys[0].decode('latin-1')}"} if keys else {}


def _size(sample: LiveSample) -> int:
    return len(sample.prompt) * 2 + len(sample.answer) + 1024


def _pause(retry_after: str) -> float:
    return min(max(float(retry_after), 0.1), _MAX_PAUSE_SECONDS) if retry_after.isdecimal() else 1.0

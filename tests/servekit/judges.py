"""Live judges that listen on loopback and do what a test says. The real one is rlhf_server.livejudge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from judgekit.local import listening
from rlhf_operator.api.signals import LiveBatch, LiveSample
from rlhf_server.live.asgi import Receive, Scope, Send

_PATIENCE_SECONDS = 20.0


@dataclass
class FakeJudge:
    """One judge: what it was told, and how it answers."""

    status: int = 202
    retry_after: str = ""
    silent: bool = False
    """Takes the request and never answers."""
    endless: bool = False
    """Answers and never comes to an end."""
    samples: list[LiveSample] = field(default_factory=list)
    batches: int = 0
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/samples."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        with self._lock:
            self.batches += 1
        while self.silent:  # noqa: ASYNC110 - the test changes it, in another thread
            await asyncio.sleep(0.01)
        if self.status == 202:
            batch = LiveBatch.model_validate(json.loads(body))
            with self._lock:
                self.samples.extend(batch.samples)
        headers = [(b"retry-after", self.retry_after.encode())] if self.retry_after else []
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        while self.endless:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            # A client that is gone takes everything without a pause.
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})

    def ids(self) -> list[str]:
        """Request ids, in the order in which they came."""
        with self._lock:
            return [sample.request_id for sample in self.samples]


@contextlib.contextmanager
def judging(judge: FakeJudge) -> Iterator[FakeJudge]:
    """Let it listen."""
    with listening(judge) as (url, _):  # type: ignore[arg-type]
        judge.url = url
        try:
            yield judge
        finally:
            judge.silent = judge.endless = False


def until(condition: Callable[[], bool], shown: Callable[[], Any] = lambda: "") -> None:
    """Until it holds."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.005)

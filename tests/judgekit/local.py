"""The judge's app behind a real socket, in a thread of the test's process. As a process of its own: process.py."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from judgekit.versions import Version
from rlhf_server.judge.app import Judge, build_app
from rlhf_server.judge.serve import load
from rlhf_server.judge.settings import Settings

_PATIENCE_SECONDS = 30.0


@dataclass
class Running:
    """A judge that listens. `loop` is the one that it runs on."""

    judge: Judge
    url: str
    loop: asyncio.AbstractEventLoop

    def client(self, **options: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30, **options)

    def wait_ready(self) -> None:
        """Until every probe scored."""
        self.wait_until(lambda: self.judge.readiness.state is None)

    def wait_until(self, condition: Any) -> None:
        """Until the condition holds; says the state when it does not in time."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"readiness: {self.judge.readiness.state}"
            time.sleep(0.01)


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """Serve an app on a free loopback port; its address and its event loop."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False))
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not server.started:
            assert thread.is_alive(), "the server ended before it listened"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", loops[0]
    finally:
        server.should_exit = True
        thread.join(_PATIENCE_SECONDS)


@contextlib.contextmanager
def serving(judge: Judge) -> Iterator[Running]:
    """A judge that listens; it is ended with the block."""
    with listening(build_app(judge)) as (url, loop):
        yield Running(judge, url, loop)


def settings(version: Version, **changes: Any) -> Settings:
    """Settings of a judge that holds the version."""
    return Settings(scorer=version.directory, version=version.digest, engine_poll_seconds=0.05, **changes)


@contextlib.contextmanager
def holding(version: Version, **changes: Any) -> Iterator[Running]:
    """A judge, ready, that holds the version; changes are settings."""
    with serving(load(settings(version, **changes))) as running:
        running.wait_ready()
        yield running

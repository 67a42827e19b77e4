"""/healthz, /readyz and /metrics over HTTP. Says what is wrong in words; judges by what the watches report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from aiohttp import web

from rlhf_operator.kube.reflector import Reflector, WatchState
from rlhf_operator.runtime.metrics import Metrics


def liveness_problems(reflectors: Iterable[Reflector]) -> list[str]:
    """What a new process might cure: watches that are silent though nothing refuses us.

    A refused connection, a missing permission or a missing CRD is not among them: a restart would only add back-off.
    """
    return [f"{_name(r)}: silent for {r.age_seconds:.0f} s" for r in reflectors if r.hung]


def readiness_problems(reflectors: Iterable[Reflector]) -> list[str]:
    """What keeps this process from serving every kind it was told to."""
    problems = []
    for reflector in reflectors:
        if reflector.state is WatchState.UNSOUGHT or (reflector.optional and reflector.state is WatchState.ABSENT):
            continue
        if not reflector.listed or reflector.state is WatchState.FORBIDDEN:
            problems.append(reflector.problem or f"{_name(reflector)}: not listed yet")
        elif not reflector.usable:
            problems.append(f"{_name(reflector)}: heard nothing for {reflector.age_seconds:.0f} s; {reflector.problem}")
    return problems


def _name(reflector: Reflector) -> str:
    where = f" in namespace {reflector.namespace}" if reflector.namespace else ""
    return f"watch of {reflector.resource}{where}"


class HealthServer:
    """Serves the three paths from start to stop. 200 with `ok`, or 500 with one problem per line."""

    def __init__(
        self,
        metrics: Metrics,
        reflectors: Callable[[], Iterable[Reflector]],
        starting: Callable[[], str],
    ) -> None:
        self._metrics = metrics
        self._reflectors = reflectors
        self._starting = starting
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int, port_file: Path | None = None) -> int:
        """Listen; returns the port, which is also written to `port_file`."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        chosen = int(self._runner.addresses[0][1])
        if port_file is not None:
            await asyncio.to_thread(port_file.write_text, str(chosen), encoding="utf-8")
        return chosen

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _answer(liveness_problems(self._reflectors()))

    async def _readyz(self, request: web.Request) -> web.Response:
        starting = self._starting()
        return _answer([starting] if starting else readiness_problems(self._reflectors()))

    async def _metrics_page(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})


def _answer(problems: list[str]) -> web.Response:
    if problems:
        return web.Response(status=500, text="\n".join(problems) + "\n")
    return web.Response(text="ok\n")

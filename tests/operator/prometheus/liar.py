"""A server that speaks Prometheus's API until a test says otherwise."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from rlhf_operator.common.measurements import Problem, PrometheusTarget, Round
from rlhf_operator.prometheus.client import Limits

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAST = Limits(request_seconds=1.0, round_seconds=2.0, connect_seconds=0.5)


class Server:
    """Speaks Prometheus's API until a test says otherwise."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.handler: Handler | None = None
        """Answers all but time()."""
        self.everything: Handler | None = None
        """Answers time() as well."""
        self.port = 0

    @property
    def target(self) -> PrometheusTarget:
        return PrometheusTarget(f"http://127.0.0.1:{self.port}")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append((request.path, form, dict(request.headers)))
        if self.everything is not None:
            return await self.everything(request)
        if self.handler is not None and form.get("query") != "time()":
            return await self.handler(request)
        return scalar(time.time())

    def answers(self, make: Callable[[], web.StreamResponse]) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return make()

        self.handler = handler


def scalar(value: object, at: float | None = None) -> web.Response:
    when = time.time() if at is None else at
    return web.json_response({"status": "success", "data": {"resultType": "scalar", "result": [when, str(value)]}})


async def honest(request: web.Request) -> web.Response:
    """The time, or 1 at the time that was asked for, however late that is answered."""
    at = (await request.post()).get("time")
    return scalar(time.time()) if at is None else scalar(1.0, float(str(at)))


def problem(answers: Round, name: str = "it") -> Problem:
    found = answers.samples[name]
    assert isinstance(found, Problem), found
    return found

"""The admin port: metrics of ours and of vLLM's, whether the pod is ready, lives, and how much still runs in it.

In no Service that a route names. Draining is begun from inside the pod only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from http import HTTPStatus
from typing import Any

import httpx
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from rlhf_operator.api.signals import Role

from .asgi import App, Receive, Scope, Send, answer
from .pod import Pod

WARM_UP_HEADER = "x-rlhf-warm-up"
"""With this process' secret: a request that counts as nobody's."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WARM_UP = {"prompt": "Hello", "max_tokens": 2, "temperature": 0}
_WARM_UP_SECONDS = 300.0
_RETRY_SECONDS = 1.0
_HEALTH_SECONDS = 3.0
"""Less than a probe waits: a server that is only slow must not look dead."""
_LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_log = logging.getLogger(__name__)


class Admin:
    """The admin app of one process."""

    def __init__(self, server: App, pod: Pod, secret: str) -> None:
        """server: vLLM's app; secret: what marks our own requests to it."""
        self._state = getattr(server, "state", None)
        self._pod = pod
        self._secret = secret
        self._warm = False
        self._last = "the warm-up has not been answered yet"
        self._warming: asyncio.Task[None] | None = None
        self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False)

    def start(self) -> None:
        """Begin the warm-up: what compiles, loads or allocates on first use does it before a user waits for it."""
        self._warming = asyncio.create_task(self._warm_up())

    async def close(self) -> None:
        """Let go."""
        if self._warming is not None:
            self._warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._warming
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        asked = (scope["method"], scope["path"])
        if asked == ("GET", "/metrics"):
            await answer(send, HTTPStatus.OK, await asyncio.to_thread(self._metrics), METRICS_TYPE)
        elif asked == ("GET", "/readyz"):
            await self._say(send, await self.not_ready())
        elif asked == ("GET", "/livez"):
            dead = await self._health() == HTTPStatus.SERVICE_UNAVAILABLE
            await self._say(send, "the engine is dead" if dead else "")
        elif asked[1] == "/drain":
            await self._drain(scope, send)
        else:
            await answer(send, HTTPStatus.NOT_FOUND)

    async def not_ready(self) -> str:
        """Why no request should come; empty: one may."""
        if self._pod.draining:
            return "the pod is draining"
        if not self._warm:
            return self._last
        status = await self._health()
        return "" if status == HTTPStatus.OK else f"the server's /health answers {status or 'nothing'}"

    def running(self) -> int:
        """Requests that are not answered to their end, or that the engine still works at (background responses)."""
        engine = getattr(self._state, "engine_client", None)
        count = getattr(getattr(engine, "output_processor", None), "get_num_unfinished_requests", None)
        return max(sum(self._pod.in_flight.values()), int(count()) if count is not None else 0)

    async def _drain(self, scope: Scope, send: Send) -> None:
        if scope["method"] == "POST":
            if scope["client"] is None or scope["client"][0] not in _LOOPBACK:
                await answer(send, HTTPStatus.FORBIDDEN)
                return
            self._pod.draining = True
        found = {
            "draining": self._pod.draining,
            "running": self.running(),
            "live": self._pod.in_flight[Role.LIVE],
            "shadow": self._pod.in_flight[Role.SHADOW],
        }
        await answer(send, HTTPStatus.OK, json.dumps(found).encode(), "application/json")

    async def _say(self, send: Send, trouble: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        await answer(send, status, (trouble or "ok").encode() + b"\n", "text/plain; charset=utf-8")

    def _metrics(self) -> bytes:
        return self._pod.metrics.expose() + generate_latest(_engine_registry())

    async def _warm_up(self) -> None:
        while not self._warm:
            try:
                response = await self._client.post(
                    f"{self._url()}/v1/completions",
                    json=_WARM_UP,
                    headers={WARM_UP_HEADER: self._secret, **self._authorization()},
                    timeout=_WARM_UP_SECONDS,
                )
                self._warm = response.status_code == HTTPStatus.OK
                self._last = f"the warm-up was answered {response.status_code}"
            except httpx.HTTPError as error:
                self._last = f"the warm-up was not answered ({type(error).__name__})"
            if not self._warm:
                await asyncio.sleep(_RETRY_SECONDS)
        _log.info("warm")

    async def _health(self) -> int:
        try:
            return (await self._client.get(f"{self._url()}/health", timeout=_HEALTH_SECONDS)).status_code
        except httpx.HTTPError:
            return 0

    def _args(self) -> Any:
        return getattr(self._state, "args", None)

    def _url(self) -> str:
        """The server's own address, from inside: vLLM's arguments say it, else our settings."""
        args = self._args()
        host = getattr(args, "host", None)
        host = "127.0.0.1" if not host or host == "0.0.0.0" else "[::1]" if host == "::" else host  # noqa: S104
        port = getattr(args, "port", None) or self._pod.settings.live_port
        scheme = "https" if getattr(args, "ssl_certfile", None) else "http"
        return f"{scheme}://{f'[{host}]' if host.count(':') > 1 and host[0] != '[' else host}:{port}"

    def _authorization(self) -> dict[str, str]:
        keys = getattr(self._args(), "api_key", None) or [os.environ.get("VLLM_API_KEY")]
        return {"authorization": f"Bearer {keys[0]}"} if keys[0] else {}


def _engine_registry() -> CollectorRegistry:
    """Where vLLM counts; without vLLM in the process, the default registry."""
    if "vllm" in sys.modules:
        from vllm.v1.metrics.prometheus import get_prometheus_registry

        registry: CollectorRegistry = get_prometheus_registry()
        return registry
    return REGISTRY

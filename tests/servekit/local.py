"""The middleware around an app that answers as a test says, on real ports, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from judgekit.local import listening
from rlhf_operator.api.signals import SIGNALS_FILE, RequestOutcome, Role
from rlhf_server.live.asgi import App
from rlhf_server.live.exchange import Exchange
from rlhf_server.live.middleware import LiveSignals
from rlhf_server.live.settings import PodSettings

REVISION = "r1"
CHAT = "/v1/chat/completions"
FEEDBACK_KEY = b"f" * 40
_PATIENCE_SECONDS = 20.0


def settings(folder: Path, **changes: Any) -> PodSettings:
    """Settings of a pod whose mounts are under `folder`, on free ports."""
    for name in ("signals", "texts", "keys", "spool", "trajectories"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "keys" / "feedback").write_bytes(FEEDBACK_KEY)
    given: dict[str, Any] = {
        "namespace": "tests",
        "rollout": "policy",
        "revision": REVISION,
        "host": "127.0.0.1",
        "shadow_port": 0,
        "admin_port": 0,
        "poll_seconds": 0.02,
        **{f"{name}_path": folder / name for name in ("signals", "texts", "keys", "spool", "trajectories")},
        **changes,
    }
    return PodSettings(**given)


@dataclass
class Kept:
    """A recorder that keeps what it is offered."""

    exchanges: list[Exchange] = field(default_factory=list)
    began: int = 0
    ended: int = 0

    def offer(self, exchange: Exchange) -> None:
        """Keep it."""
        self.exchanges.append(exchange)

    async def start(self) -> None:
        """Count it."""
        self.began += 1

    async def close(self) -> None:
        """Count it."""
        self.ended += 1


@dataclass
class Behind:
    """The server behind the middleware. A request's `do` says what it does; what it received is kept."""

    app: FastAPI = field(default_factory=FastAPI)
    received: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    healthy: bool = True
    release: dict[str, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
            self.app.add_api_route(path, self._answer, methods=["POST"])
        self.app.add_api_route("/health", self._health)
        self.app.add_api_route("/v1/models", self._models)

    async def _health(self) -> Response:
        return Response(status_code=200 if self.healthy else 503)

    async def _models(self) -> dict[str, Any]:
        return {"data": []}

    async def _answer(self, request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError:
            return JSONResponse({"error": {"message": "no JSON", "code": 400}}, status_code=400)
        self.received.append(body)
        self.headers.append(dict(request.headers))
        what = body.get("do", {})
        tokens = what.get("tokens", 3)
        if what.get("status"):
            return JSONResponse({"error": {"message": "as asked", "code": what["status"]}}, status_code=what["status"])
        if what.get("raise"):
            raise RuntimeError("as asked")
        if what.get("wait") and not body.get("stream"):
            await self._held(what["wait"])
        if body.get("stream"):
            return StreamingResponse(self._stream(what, tokens), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", "content": text(tokens)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": tokens}
        return JSONResponse({"choices": [choice], "usage": usage})

    async def _held(self, name: str) -> None:
        await self.release.setdefault(name, asyncio.Event()).wait()

    async def _stream(self, what: dict[str, Any], tokens: int) -> AsyncIterator[str]:
        def event(delta: dict[str, Any], reason: str | None = None) -> str:
            return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason}]})}\n\n"

        yield event({"role": "assistant", "content": ""})
        for number in range(tokens):
            yield event({"content": f"t{number} "})
            if number == 0 and what.get("wait"):
                await self._held(what["wait"])
        if what.get("break"):
            raise RuntimeError("as asked")
        if code := what.get("inside"):
            yield f"data: {json.dumps({'error': {'message': 'as asked', 'code': code}})}\n\n"
        else:
            yield event({}, what.get("reason", "stop"))
            usage = {"prompt_tokens": 5, "completion_tokens": tokens}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def text(tokens: int) -> str:
    """What the server behind answers."""
    return "".join(f"t{number} " for number in range(tokens))


@dataclass
class Serving:
    """A pod that listens."""

    live: str
    signals: LiveSignals
    behind: Behind
    loop: asyncio.AbstractEventLoop
    folder: Path
    recorder: Kept
    client: httpx.Client

    @property
    def shadow(self) -> str:
        """Address of the shadow port."""
        assert self.signals.servers is not None
        return f"http://127.0.0.1:{self.signals.servers.shadow_port}"

    @property
    def admin(self) -> str:
        """Address of the admin port."""
        assert self.signals.servers is not None
        return f"http://127.0.0.1:{self.signals.servers.admin_port}"

    def ask(
        self,
        *,
        url: str = "",
        path: str = "/v1/chat/completions",
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """One chat request; `do` says what the server behind does."""
        content = {"messages": [{"role": "user", "content": "Hello"}], **body}
        return self.client.post(f"{url or self.live}{path}", json=content, headers=dict(headers or {}))

    def release(self, name: str) -> None:
        """Let go on what waits."""

        def go() -> None:
            self.behind.release.setdefault(name, asyncio.Event()).set()

        self.loop.call_soon_threadsafe(go)

    def set_signals(self, content: Mapping[str, Any] | str) -> None:
        """Swap signals.json as a ConfigMap's volume does."""
        write_signals(self.folder, content)

    def count(self, outcome: RequestOutcome, role: Role = Role.LIVE, **slices: str) -> float:
        """rlhf_requests_total."""
        return self.sample("rlhf_requests_total", outcome=outcome.value, role=role.value, **slices) or 0.0

    def sample(self, name: str, **labels: str) -> float | None:
        """One sample of ours; slices are empty unless named."""
        identity = {"rlhf_namespace": "tests", "rlhf_rollout": "policy", "revision": REVISION}
        slices = dict.fromkeys(("team", "feature", "cohort", "language"), "")
        registry = self.signals.pod.metrics.registry
        return registry.get_sample_value(name, {**identity, **slices, **labels})

    def until(self, condition: Callable[[], bool]) -> None:
        """Until it holds; shows the counters when it does not in time."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                shown = [line for line in self.signals.pod.metrics.expose().decode().splitlines() if " 0.0" not in line]
                raise AssertionError("\n".join(line for line in shown if "bucket" not in line and line[0] != "#"))
            time.sleep(0.005)


def write_signals(folder: Path, content: Mapping[str, Any] | str) -> None:
    """signals.json, by a rename."""
    target = folder / "signals" / SIGNALS_FILE
    new = target.with_suffix(".new")
    new.write_text(content if isinstance(content, str) else json.dumps(dict(content)))
    new.rename(target)


@contextlib.contextmanager
def serving(
    folder: Path, signals: Mapping[str, Any] | None = None, feedback: App | None = None, **changes: Any
) -> Iterator[Serving]:
    """A pod that listens, ended with the block. changes: of its settings."""
    made: list[LiveSignals] = []
    pod_settings = settings(folder, **changes)
    write_signals(folder, signals or {})
    recorder, behind = Kept(), Behind()

    class Noted(LiveSignals):
        def __init__(self, app: App) -> None:
            super().__init__(app, pod_settings, recorder, feedback)
            made.append(self)

    behind.app.add_middleware(Noted)
    with listening(behind.app) as (url, loop), httpx.Client(trust_env=False, timeout=30) as client:
        # As vLLM's arguments are there.
        behind.app.state.args = SimpleNamespace(host="127.0.0.1", port=int(url.rpartition(":")[2]))
        yield Serving(url, made[0], behind, loop, folder, recorder, client)

"""A small OpenAI-compatible model that judges by content, deterministically, or misbehaves as a test says."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from judgekit.local import listening

_FENCE = re.compile(
    r"<<<(?P<name>[a-z0-9 ]+) (?P<ticket>[0-9a-f]{16})>>>\n(?P<text>.*?)\n<<<end (?P=name) (?P=ticket)>>>", re.S
)


@dataclass(frozen=True)
class Asked:
    """One question, as a model that can read would understand it."""

    messages: list[dict[str, str]]
    ticket: str
    texts: dict[str, str]
    structured: bool

    @property
    def compares(self) -> bool:
        """Whether two answers are to be held against each other."""
        return "first answer" in self.texts


def quality(text: str) -> int:
    """Two points per `good`, at most 10: what the model thinks of a text."""
    return min(10, 2 * text.split().count("good"))


def honest(asked: Asked) -> str:
    """A verdict by quality, in the form that was asked for."""
    if asked.compares:
        first, second = quality(asked.texts["first answer"]), quality(asked.texts["second answer"])
        better = "tie" if first == second else "first" if first > second else "second"
        return verdict(asked.ticket, better=better)
    return verdict(asked.ticket, score=quality(asked.texts["answer"]))


def verdict(ticket: str, **found: object) -> str:
    """A reply in the form that is asked for."""
    return json.dumps({"ticket": ticket, "reason": "because", **found})


Reply = str | Response


@dataclass
class ChatModel:
    """What it was asked, and how it replies."""

    reply: Callable[[Asked], Reply] = honest
    token: str = ""
    """Bearer token that it wants; empty: none."""
    understands_schemas: bool = True
    lists_models: bool = True
    url: str = ""
    delay_seconds: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Honest again, and nothing asked yet."""
        self.reply, self.token, self.delay_seconds = honest, "", 0.0
        self.understands_schemas = self.lists_models = True
        self.asked, self.bodies, self.most_at_once = [], [], 0

    def app(self) -> FastAPI:
        """The endpoint."""
        app = FastAPI()

        @app.get("/v1/models")
        async def models(request: Request) -> Response:
            found = JSONResponse({"object": "list", "data": [{"id": "judge"}]}, 200 if self.lists_models else 404)
            return self._refusal(request) or found

        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            if (refusal := self._refusal(request)) is not None:
                return refusal
            body = await request.json()
            structured = "response_format" in body
            if structured and not self.understands_schemas:
                return JSONResponse({"error": {"message": "unknown field response_format"}}, status_code=400)
            asked = understood(body["messages"], structured)
            with self._lock:
                self.bodies.append(body)
                self.asked.append(asked)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
            await asyncio.sleep(self.delay_seconds)
            with self._lock:
                self._at_once -= 1
                reply = self.reply(asked)
            return reply if isinstance(reply, Response) else completion(reply)

        return app

    def _refusal(self, request: Request) -> Response | None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return JSONResponse({"error": {"message": "wrong key"}}, status_code=401)
        return None


def understood(messages: list[dict[str, str]], structured: bool = False) -> Asked:
    """Texts by the name of their fence."""
    found = list(_FENCE.finditer(messages[-1]["content"]))
    texts = {match["name"]: match["text"] for match in found}
    return Asked(messages, found[0]["ticket"] if found else "", texts, structured)


def completion(content: str | None, finish_reason: str = "stop") -> Response:
    """A chat completion."""
    message = {"role": "assistant", "content": content}
    return JSONResponse({"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]})


def trickle(seconds: float) -> Response:
    """An answer that comes byte by byte, and is not over before its time."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(int(seconds / 0.05)):
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(chunks(), media_type="application/json")


@contextmanager
def serving_model(model: ChatModel) -> Iterator[ChatModel]:
    """The model behind a free loopback port."""
    with listening(model.app()) as (url, _):
        model.url = f"{url}/v1"
        yield model

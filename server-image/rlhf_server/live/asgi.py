"""ASGI's types, and the few answers that are given without the server behind."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_NONE: Mapping[str, str] = MappingProxyType({})

ROLE = "rlhf.role"
"""Key of a scope: set by the server that a request came in through; without it, the request is live."""


async def answer(
    send: Send,
    status: int,
    body: bytes = b"",
    content_type: str = "",
    headers: Mapping[str, str] = _NONE,
) -> None:
    """A whole answer."""
    named: Headers = [(name.encode(), value.encode()) for name, value in headers.items()]
    if content_type:
        named.append((b"content-type", content_type.encode()))
    if status != HTTPStatus.NO_CONTENT:
        named.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": int(status), "headers": named})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: HTTPStatus, message: str, headers: Mapping[str, str] = _NONE) -> None:
    """An error in the form that OpenAI's clients know."""
    error = {"message": message, "type": status.phrase.replace(" ", ""), "param": None, "code": int(status)}
    await answer(send, status, json.dumps({"error": error}).encode(), "application/json", headers)

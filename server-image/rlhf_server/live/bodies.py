"""Requests as they come in: ids, headers, bodies of a bounded size, and what is changed before the server sees them."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api.signals import REQUEST_ID_HEADER, SESSION_HEADER

from .asgi import Headers, Receive, Scope
from .exchange import Kind

_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_HEADER_CHARS = 256
_OURS = "x-rlhf-"
_BODY_SECONDS = 60.0
_KINDS = {
    "/v1/chat/completions": Kind.CHAT,
    "/v1/completions": Kind.COMPLETION,
    "/v1/responses": Kind.RESPONSES,
}
_UNCOUNTED = ("/v1/feedback", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")


class BodyTooLarge(Exception):
    """The request is larger than the limit."""


class BodyTooSlow(Exception):
    """The request did not come to its end in time."""


class ClientGone(Exception):
    """The client went away before its request was complete."""


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body, and what it says when it is a JSON object; an empty mapping when it is not."""

    raw: bytes
    content: Mapping[str, Any]


def kind_of(scope: Scope) -> Kind | None:
    """Which API a request asks; None: it asks for no answer, and is neither counted nor mirrored."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    if scope["method"] != "POST" or not path.startswith("/v1/") or path in _UNCOUNTED:
        return None
    return _KINDS.get(path, Kind.OTHER)


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers that are ours to read: the last one of each name, cut to 256 characters."""
    found = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in (REQUEST_ID_HEADER, SESSION_HEADER) or name.startswith(_OURS):
            found[name] = raw_value.decode("latin-1").strip()[:_HEADER_CHARS]
    return found


def request_id(headers: Mapping[str, str]) -> str:
    """The gateway's id; one of our own when there is none, or none that may stand in a log."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


def set_headers(scope: Scope, changes: Mapping[str, str]) -> None:
    """Set headers of a request, each once; names in lower case."""
    names = {name.encode() for name in changes}
    kept: Headers = [(name, value) for name, value in scope["headers"] if name.lower() not in names]
    scope["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in changes.items())]


async def read_body(scope: Scope, receive: Receive, limit: int) -> Body:
    """The whole body. Raises BodyTooLarge, BodyTooSlow, ClientGone."""
    declared = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
    if declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise BodyTooLarge
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise BodyTooSlow from None
    raw = b"".join(parts)
    return Body(raw, _object(raw))


def replay(scope: Scope, receive: Receive, original: Body, content: Mapping[str, Any]) -> Receive:
    """What the server receives: the body as it came, or as it was changed; then whatever the client does."""
    raw = original.raw
    if content is not original.content:
        raw = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
        scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != b"transfer-encoding"]
        set_headers(scope, {"content-length": str(len(raw))})
    given = False

    async def next_message() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return next_message


def with_system_prompt(kind: Kind, content: Mapping[str, Any], prompt: str) -> Mapping[str, Any]:
    """The request with the revision's system prompt before everything else.

    A client's own system message is kept, behind it and in the same message: many chat templates take one only. The
    Responses API has `instructions` in that place. Prompts of completions are left as they are.
    """
    if not prompt:
        return content
    if kind is Kind.RESPONSES and content:
        own = content.get("instructions")
        if own is not None and not isinstance(own, str):
            return content
        return {**content, "instructions": _joined(prompt, own or "")}
    messages = content.get("messages")
    if kind is not Kind.CHAT or not isinstance(messages, list):
        return content
    first = messages[0] if messages else None
    if not isinstance(first, dict) or first.get("role") not in ("system", "developer"):
        return {**content, "messages": [{"role": "system", "content": prompt}, *messages]}
    said = first.get("content")
    if isinstance(said, list):
        merged: Any = [{"type": "text", "text": prompt}, *said]
    else:
        merged = _joined(prompt, said if isinstance(said, str) else "")
    return {**content, "messages": [{**first, "content": merged}, *messages[1:]]}


def _joined(first: str, second: str) -> str:
    return f"{first}\n\n{second}" if second else first


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        # The server reads it the same way and says so.
        return {}
    return content if isinstance(content, dict) else {}

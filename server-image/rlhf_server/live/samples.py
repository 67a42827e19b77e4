"""An exchange as a judge is told of it. Pure."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from rlhf_operator.api.signals import SESSION_HEADER, LiveSample, Message, RequestOutcome

from .exchange import Exchange, Kind

_TEXT_CHARS = 64 * 1024
"""Of a prompt, from its end: what an answer answers stands there."""
_MESSAGES = 64
_ENDS = {
    RequestOutcome.ERROR: "error",
    RequestOutcome.CLIENT_ERROR: "error",
    RequestOutcome.CANCELLED: "abort",
    RequestOutcome.SHED: "shed",
}


def sample_of(exchange: Exchange, session_key: bytes = b"") -> LiveSample | None:
    """What the judge is told; None when there is nothing to judge.

    session_key: conversations are named by a keyed digest, so that an id that is a person's name tells nothing.
    """
    if exchange.kind is Kind.OTHER or not exchange.request or exchange.outcome is RequestOutcome.OWN_COPY:
        return None
    if exchange.status == HTTPStatus.UNAUTHORIZED:
        return None
    messages = messages_of(exchange.kind, exchange.request)
    prompt = prompt_text(messages)
    session = exchange.headers.get(SESSION_HEADER, "")
    whole = exchange.outcome is RequestOutcome.OK
    return LiveSample(
        request_id=exchange.request_id,
        prompt_digest=exchange.prompt_digest,
        revision=exchange.revision,
        role=exchange.role,
        served=exchange.served,
        session=hmac.new(session_key, session.encode(), hashlib.sha256).hexdigest()[:32] if session else "",
        prompt=prompt,
        messages=messages,
        answer=_clean(exchange.answer) if whole else "",
        finish_reason=_clean(exchange.finish_reason or "unknown") if whole else _ENDS[exchange.outcome],
        sampling_digest=exchange.sampling_digest,
        slices=dict(exchange.slices),
        row=_row(exchange.request),
        at=exchange.ended_at,
    )


def messages_of(kind: Kind, request: Mapping[str, Any]) -> list[Message]:
    """The conversation as the client sent it, the newest turns when there are many; a bare prompt is one user turn."""
    found: list[Message] = []
    if kind is Kind.RESPONSES and isinstance(instructions := request.get("instructions"), str):
        found.append(Message(role="system", content=_end(instructions)))
    turns = request.get({Kind.CHAT: "messages", Kind.RESPONSES: "input"}.get(kind, "prompt"))
    if isinstance(turns, str):
        return [*found, Message(role="user", content=_end(turns))]
    if not isinstance(turns, list):
        return found
    if turns and isinstance(turns[0], str) and kind is Kind.COMPLETION:
        return [Message(role="user", content=_end(turns[0]))]
    return found + [
        Message(role=_clean(str(turn["role"]))[:32], content=_end(_text(turn.get("content"))))
        for turn in turns[-_MESSAGES:]
        if isinstance(turn, dict) and "role" in turn
    ]


def prompt_text(messages: Sequence[Message]) -> str:
    """What a scorer of (prompt, response) reads: the one question, or the conversation with its speakers named."""
    turns = [message for message in messages if message.role not in ("system", "developer")]
    if len(turns) == 1:
        return turns[0].content
    return _end("\n\n".join(f"{turn.role}: {turn.content}" for turn in turns))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def _row(request: Mapping[str, Any]) -> dict[str, Any]:
    """Columns for graders: what the client sent as `metadata`, when it is small."""
    metadata = request.get("metadata")
    if not isinstance(metadata, dict):
        return {}
    text = _clean(json.dumps(metadata, ensure_ascii=False))
    found: dict[str, Any] = json.loads(text) if len(text) <= _TEXT_CHARS else {}
    return found


def _end(text: str) -> str:
    return _clean(text[-_TEXT_CHARS:])


def _clean(text: str) -> str:
    """Without halves of surrogate pairs: JSON can carry them, UTF-8 can't."""
    return text.encode("utf-8", "replace").decode()

"""Requests' messages and answers in the form of OpenTelemetry's GenAI conventions. Pure; nothing is redacted here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_operator.api.trajectory import Message

from .exchange import Exchange, Kind

_MEDIA = {
    "image_url": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
}
_OMITTED = "<OMITTED>"


def input_messages(exchange: Exchange) -> list[Message]:
    """The conversation as the client sent it."""
    request = exchange.request
    turns = request.get({Kind.CHAT: "messages", Kind.RESPONSES: "input"}.get(exchange.kind, "prompt"))
    if isinstance(turns, str):
        return [_said("user", turns)]
    if not isinstance(turns, list):
        return []
    if exchange.kind is Kind.COMPLETION:
        return [_said("user", turn if isinstance(turn, str) else json.dumps(turn)) for turn in turns[:1]]
    return [_turn(turn) for turn in turns if isinstance(turn, Mapping)]


def instructions(exchange: Exchange) -> list[dict[str, Any]] | None:
    """What came beside the messages."""
    found = exchange.request.get("instructions")
    return [_text(found)] if isinstance(found, str) and found else None


def output_messages(exchange: Exchange) -> list[Message]:
    """The first choice; none where there was no answer."""
    parts = [_text(exchange.answer)] if exchange.answer else []
    parts += [_call(call.get("id"), call.get("name"), call.get("arguments")) for call in exchange.tool_calls]
    if not parts:
        return []
    return [Message(role="assistant", parts=parts, finish_reason=exchange.finish_reason or "unknown")]


def turns_so_far(messages: Sequence[Message]) -> int:
    """How often the user has spoken."""
    return sum(message.role == "user" for message in messages)


def _turn(turn: Mapping[str, Any]) -> Message:
    kind = turn.get("type")
    if kind == "function_call":
        return Message(role="assistant", parts=[_call(turn.get("call_id"), turn.get("name"), turn.get("arguments"))])
    if kind == "function_call_output":
        return Message(role="tool", parts=[_response(turn.get("call_id"), turn.get("output"))])
    role = str(turn.get("role", "unknown"))[:32]
    content = turn.get("content")
    if role == "tool":
        return Message(role=role, parts=[_response(turn.get("tool_call_id"), content)])
    parts = _parts(content)
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, Mapping):
            function = call.get("function")
            of = function if isinstance(function, Mapping) else call
            parts.append(_call(call.get("id"), of.get("name"), of.get("arguments")))
    return Message(role=role, parts=parts)


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [_text(content)]
    return [_part(part) for part in content] if isinstance(content, list) else []


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return _text(part)
    if not isinstance(part, Mapping):
        return {"type": "unknown"}
    text = part.get("text", part.get("refusal"))
    if isinstance(text, str):
        return _text(text)
    kind = str(part.get("type", "unknown"))
    place = part.get(kind)
    url = place.get("url") if isinstance(place, Mapping) else place
    if kind in _MEDIA and isinstance(url, str) and not url.startswith("data:"):
        return {"type": "uri", "modality": _MEDIA[kind], "uri": url}
    # Pictures and sounds are large, and nothing here could redact them.
    return {"type": "blob", "modality": _MEDIA.get(kind, kind[:32]), "content": _OMITTED}


def _said(role: str, text: str) -> Message:
    return Message(role=role, parts=[_text(text)])


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": _read(arguments)}


def _response(call_id: Any, content: Any) -> dict[str, Any]:
    texts = [part["content"] for part in _parts(content) if part["type"] == "text"]
    return {"type": "tool_call_response", "id": call_id, "response": _read("\n".join(texts) if texts else content)}


def _read(value: Any) -> Any:
    """JSON in a text is read, so that what stands in it is redacted by its parts."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value

"""Answers read as they pass: text, finish reason, tokens, times. Nothing is held back and nothing is changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .exchange import Kind

_EVENT_BYTES = 1024 * 1024
"""An event or a whole answer is read up to this size; what is longer passes unread."""
_WHOLE_BYTES = 8 * _EVENT_BYTES
_MAX_TOOL_CALLS = 64
_TEXT_DELTAS = ("response.output_text.delta", "response.refusal.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_RESPONSE_REASONS = {"completed": "stop", "max_output_tokens": "length"}
"""The Responses API's words in those of the others, so that halves of a pair compare."""
_SERVER_ERROR = 500


class Answer:
    """What is known so far of one answer. `feed` never raises: of an answer in another dialect less is known."""

    def __init__(self, kind: Kind, streamed: bool, max_chars: int) -> None:
        self._kind = kind
        self.streamed = streamed
        self._max_chars = max_chars
        self._left = max_chars
        self._pending = bytearray()
        self._skipping = False
        self._parts: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._log_prob_sum, self._log_probs = 0.0, 0
        self.cut = False
        """More text came than is kept."""
        self.finish_reason = ""
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.chunks = 0
        """Events that brought something of the answer: at most as many as tokens."""
        self.first_seconds: float | None = None
        self.last_seconds: float | None = None
        self.error_status: int | None = None
        """The server said inside an answer that it failed: the status that it would have had."""
        self.ended = False
        """The answer's last word has come."""

    @property
    def text(self) -> str:
        """The first choice's text, up to the limit."""
        return "".join(self._parts)

    @property
    def tool_calls(self) -> list[Mapping[str, str]]:
        """The first choice's tool calls."""
        return [self._calls[index] for index in sorted(self._calls)]

    @property
    def mean_log_prob(self) -> float | None:
        """Over the first choice's tokens; None unless the server gave them."""
        return self._log_prob_sum / self._log_probs if self._log_probs else None

    def feed(self, chunk: bytes, seconds: float) -> None:
        """The next bytes of the body, and when they came, in seconds since the request."""
        if not chunk or self._kind is Kind.OTHER:
            return
        if not self.streamed:
            if len(self._pending) + len(chunk) <= _WHOLE_BYTES:
                self._pending += chunk
            else:
                self._skipping = True
            return
        self._pending += chunk
        if len(self._pending) > _EVENT_BYTES and b"\n" not in self._pending:
            self._skipping = True
            self._pending.clear()
            return
        *lines, rest = self._pending.split(b"\n")
        self._pending = rest
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line.startswith(b"data:"):
                self._event(bytes(line[5:]).strip(), seconds)

    def close(self, seconds: float) -> None:
        """The body is complete."""
        if self.streamed or self._kind is Kind.OTHER:
            return
        if self._pending and not self._skipping and isinstance(content := _json(self._pending), dict):
            self._take(content)
        self._pending.clear()
        self.first_seconds = self.last_seconds = seconds
        self.ended = True

    def _event(self, data: bytes, seconds: float) -> None:
        if data == b"[DONE]":
            self.ended = True
        elif isinstance(content := _json(data), dict) and self._take(content):
            self.chunks += 1
            self.last_seconds = seconds
            if self.first_seconds is None:
                self.first_seconds = seconds

    def _take(self, content: dict[str, Any]) -> bool:
        """Read one JSON object; whether it brought something of the answer."""
        try:
            if "error" in content and content["error"] is not None:
                self.error_status = _status(content["error"])
            if self._kind is Kind.RESPONSES:
                return self._response_event(content) if self.streamed else self._response(content)
            self._usage(content.get("usage"))
            return any([self._choice(choice) for choice in content.get("choices") or ()])
        except (AttributeError, KeyError, TypeError, ValueError):
            # A server that speaks another dialect: its answer passes, only less is known of it.
            return False

    def _choice(self, choice: dict[str, Any]) -> bool:
        body = choice.get("delta") if self.streamed else choice.get("message")
        body = body if isinstance(body, dict) else choice
        text = body.get("content") if body is not choice else choice.get("text")
        calls = body.get("tool_calls") or ()
        thought = body.get("reasoning") or body.get("reasoning_content")
        if choice.get("index", 0) == 0:
            if isinstance(text, str):
                self._add(text)
            for position, call in enumerate(calls):
                self._call(call, position)
            self._log_probabilities(choice.get("logprobs"))
            if reason := choice.get("finish_reason"):
                self.finish_reason = str(reason)[:64]
        return bool(text or calls or thought)

    def _call(self, call: dict[str, Any], position: int) -> None:
        index = call.get("index", position)
        if index not in self._calls and len(self._calls) >= _MAX_TOOL_CALLS:
            return
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = call.get("function") or {}
        known["id"] = known["id"] or str(call.get("id") or "")[:256]
        known["name"] = known["name"] or str(function.get("name") or "")[:256]
        known["arguments"] += self._kept(str(function.get("arguments") or ""))

    def _log_probabilities(self, found: Any) -> None:
        if not isinstance(found, dict):
            return
        values = found.get("token_logprobs") or [entry.get("logprob") for entry in found.get("content") or ()]
        for value in values:
            if isinstance(value, int | float) and math.isfinite(value):
                self._log_prob_sum += value
                self._log_probs += 1

    def _response_event(self, event: dict[str, Any]) -> bool:
        kind = event.get("type", "")
        if kind in _ENDS:
            self.ended = True
            # The parts have come one by one; the end tells usage and status.
            self._response_end(event["response"])
            return False
        if kind == "error":
            self.error_status = _SERVER_ERROR
            return False
        if kind in _TEXT_DELTAS:
            self._add(event["delta"])
        return bool(kind.endswith(".delta"))

    def _response(self, response: dict[str, Any]) -> bool:
        for item in response.get("output") or ():
            if item.get("type") == "function_call":
                self._call({"id": item.get("call_id"), "function": item}, len(self._calls))
            for part in item.get("content") or ():
                if item.get("type") == "message":
                    self._add(part.get("text") or part.get("refusal") or "")
        self._response_end(response)
        return True

    def _response_end(self, response: dict[str, Any]) -> None:
        status = response.get("status")
        if status == "failed":
            self.error_status = _SERVER_ERROR
        details = response.get("incomplete_details") or {}
        reason = str(details.get("reason") or status or "")[:64]
        self.finish_reason = _RESPONSE_REASONS.get(reason, reason)
        self._usage(response.get("usage"))

    def _usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.tokens(
                usage.get("prompt_tokens", usage.get("input_tokens")),
                usage.get("completion_tokens", usage.get("output_tokens")),
            )

    def tokens(self, read: Any, written: Any) -> None:
        """What the server counted."""
        if isinstance(read, int) and read >= 0:
            self.input_tokens = read
        if isinstance(written, int) and written >= 0:
            self.output_tokens = written

    def _add(self, text: str) -> None:
        self._parts.append(self._kept(text))

    def _kept(self, text: str) -> str:
        if len(text) > self._left:
            self.cut = True
            text = text[: self._left]
        self._left -= len(text)
        return text


def _status(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else _SERVER_ERROR


def _json(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None

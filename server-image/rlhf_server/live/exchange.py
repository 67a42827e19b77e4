"""One request and its answer as they went through a serving pod: what judges are told and what is recorded. No IO."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from rlhf_operator.api.signals import RequestOutcome, Role

SAMPLING = (
    "best_of",
    "chat_template_kwargs",
    "frequency_penalty",
    "guided_choice",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "length_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "reasoning",
    "reasoning_effort",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "stop_token_ids",
    "structured_outputs",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "truncate_prompt_tokens",
    "use_beam_search",
)
"""Fields of a request that say how an answer is drawn: two halves of a pair have the same."""


class Kind(StrEnum):
    """Which of the server's APIs was asked."""

    CHAT = "chat"
    COMPLETION = "completion"
    RESPONSES = "responses"
    OTHER = "other"
    """Counted and timed; neither judged nor recorded."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that ended, whatever its end."""

    request_id: str
    role: Role
    revision: str
    served: str
    """Revision that answered the live request, as the gateway says; empty when no gateway did."""
    kind: Kind
    outcome: RequestOutcome
    status: int
    """HTTP status of the answer; 0 when there was none."""
    request: Mapping[str, Any]
    """The body as the client sent it, without what was added here; empty when it is no JSON object."""
    headers: Mapping[str, str]
    """The request's own x-rlhf-* and x-session-id, names in lower case; values of at most 256 characters."""
    slices: Mapping[str, str]
    """Slice labels, held against the allow-list: other, or empty when the request names none."""
    answer: str
    """Text of the first choice, up to a limit."""
    answer_cut: bool
    """The answer was longer than what is kept of it."""
    finish_reason: str
    """stop, length, tool_calls …; empty when the server said none."""
    tool_calls: Sequence[Mapping[str, Any]]
    """Tool calls of the first choice: {id, name, arguments}."""
    input_tokens: int | None
    output_tokens: int | None
    """Of all choices, as the server counted; chunks that came when it could not say any more; None: unknown."""
    mean_log_prob: float | None
    """Mean log-probability of the answer's tokens; None unless the client asked for them."""
    streamed: bool
    started_at: float
    """Seconds since the epoch."""
    seconds: float
    first_token_seconds: float | None

    @property
    def ended_at(self) -> float:
        """Seconds since the epoch."""
        return self.started_at + self.seconds

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters that the client gave."""
        return {name: self.request[name] for name in SAMPLING if name in self.request}

    @property
    def sampling_digest(self) -> str:
        """Of the sampling parameters."""
        return digest(self.sampling)

    @property
    def prompt_digest(self) -> str:
        """Of the messages, the prompt or the input as the client sent them."""
        return digest({name: self.request[name] for name in _PROMPTS if name in self.request})


_PROMPTS = ("messages", "prompt", "input", "instructions", "suffix", "previous_response_id")


class Recorder(Protocol):
    """Takes exchanges away to where they are kept. Never on a request's way: `offer` returns at once."""

    def offer(self, exchange: Exchange) -> None:
        """Take it or drop it, and count what is dropped. Never waits, never raises."""

    async def start(self) -> None:
        """Begin; called on the server's loop before the first request."""

    async def close(self) -> None:
        """Write what is held; called after the last request."""


def share(request_id: str) -> float:
    """Where an id lies in [0, 1), alike in every pod: a request is sampled when this is below the rate."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8]) / 2.0**64


def digest(content: Any) -> str:
    """`sha256:…` of JSON, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

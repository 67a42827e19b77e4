"""The trajectory record: one request and its answer as serving pods write them down, one JSON object per line.

Keys are attribute names. Those of OpenTelemetry's semantic conventions stand where there is one: `gen_ai.*` as in the
GenAI conventions' event gen_ai.client.inference.operation.details (repository semantic-conventions-genai, which follows
semantic conventions 1.41.1; all of it still in development), `k8s.*`, `user.hash`, `error.type` and `http.*` as in
1.41.1. Everything else begins with `rlhf.`. No IO, no redaction.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from .signals import RequestOutcome, Role

SCHEMA_VERSION: Literal["1"] = "1"
"""Rises when a field changes its meaning or goes; a new field alone does not raise it: readers ignore what is new."""
EVENT_NAME: Literal["gen_ai.client.inference.operation.details"] = "gen_ai.client.inference.operation.details"


class Consent(StrEnum):
    """What the user allows."""

    TRAINING = "training"
    """May be learnt from."""
    SERVICE = "service"
    """May be kept to run and measure the service; not learnt from."""
    REFUSED = "refused"
    """Must not be written down at all: no record is made."""


class _Part(BaseModel):
    """Base of what stands inside a record: readers of this release read records of the next."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class RetrievedDocument(_Part):
    """One passage that the application gave the model: the convention's id and score, and chunk, rank and text."""

    id: str
    """Of the document."""
    chunk_id: str | None = Field(default=None, alias="chunkId")
    score: float | None = None
    rank: int | None = None
    """1 is the best."""
    text: str | None = None
    """What the model was given, when the application sends it."""


class ToolOutcome(_Part):
    """What came of a tool call that the model asked for; known to the application only."""

    id: str
    """Of the call."""
    name: str | None = None
    ok: bool | None = None
    error: str | None = None
    seconds: float | None = None


class Sampling(_Part):
    """How this record came to be chosen: without it, shares over the records are shares of nothing."""

    bucket: float
    """Where the request id's hash lies in [0, 1)."""
    rule: Literal["requestIdHash"] = "requestIdHash"
    """Recorded when the bucket is below the probability, alike in every pod."""
    inclusion_probability: float = Field(alias="inclusionProbability")


class Message(_Part):
    """One turn, as in gen_ai.input.messages and gen_ai.output.messages."""

    role: str
    parts: list[dict[str, Any]]
    """{type: text, content} | {type: tool_call, id, name, arguments} | {type: tool_call_response, id, response} | …"""
    finish_reason: str | None = None


class Trajectory(BaseModel):
    """One record. Dumped by alias and without unset fields: `dump`."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, use_attribute_docstrings=True, defer_build=True
    )

    schema_version: Literal["1"] = Field(default=SCHEMA_VERSION, alias="rlhf.schema.version")
    record_id: str = Field(alias="rlhf.record.id")
    """The same for the same exchange: a record that was written twice is known by it."""
    event_name: Literal["gen_ai.client.inference.operation.details"] = Field(default=EVENT_NAME, alias="event.name")
    started_at: AwareDatetime = Field(alias="rlhf.started_at")

    request_id: str = Field(alias="rlhf.request.id")
    conversation_id: str | None = Field(default=None, alias="gen_ai.conversation.id")
    """Pseudonym of x-session-id."""
    turn_id: str | None = Field(default=None, alias="rlhf.turn.id")
    """As the application counts turns; else the number of user messages so far."""

    namespace: str = Field(alias="k8s.namespace.name")
    pod: str = Field(alias="k8s.pod.name")
    rollout: str = Field(alias="rlhf.rollout")
    revision: str = Field(alias="rlhf.revision")
    served: str = Field(default="", alias="rlhf.served")
    """Revision that answered the live request; another one than `revision` in a copy."""
    role: Role = Field(alias="rlhf.role")
    adapter: str | None = Field(default=None, alias="rlhf.adapter")
    """LoRA adapter that answered; none: the model itself."""
    artifact_digest: str = Field(alias="rlhf.artifact.digest")
    system_prompt_digest: str | None = Field(default=None, alias="rlhf.system_prompt.digest")
    chat_template_digest: str | None = Field(default=None, alias="rlhf.chat_template.digest")

    operation: str = Field(alias="gen_ai.operation.name")
    """chat or text_completion."""
    provider: str = Field(default="vllm", alias="gen_ai.provider.name")
    request_model: str | None = Field(default=None, alias="gen_ai.request.model")
    stream: bool = Field(alias="gen_ai.request.stream")
    temperature: float | None = Field(default=None, alias="gen_ai.request.temperature")
    top_p: float | None = Field(default=None, alias="gen_ai.request.top_p")
    top_k: float | None = Field(default=None, alias="gen_ai.request.top_k")
    max_tokens: int | None = Field(default=None, alias="gen_ai.request.max_tokens")
    frequency_penalty: float | None = Field(default=None, alias="gen_ai.request.frequency_penalty")
    presence_penalty: float | None = Field(default=None, alias="gen_ai.request.presence_penalty")
    stop_sequences: list[str] | None = Field(default=None, alias="gen_ai.request.stop_sequences")
    seed: int | None = Field(default=None, alias="gen_ai.request.seed")
    choice_count: int | None = Field(default=None, alias="gen_ai.request.choice.count")
    other_sampling: dict[str, Any] = Field(default={}, alias="rlhf.request.sampling")
    """Sampling parameters that the convention has no name for, as the client sent them."""

    system_instructions: list[dict[str, Any]] | None = Field(default=None, alias="gen_ai.system_instructions")
    """Instructions that came beside the messages; a revision's own prompt is known by its digest."""
    input_messages: list[Message] = Field(alias="gen_ai.input.messages")
    output_messages: list[Message] = Field(alias="gen_ai.output.messages")
    tool_definitions: list[Any] | None = Field(default=None, alias="gen_ai.tool.definitions")
    finish_reasons: list[str] = Field(default=[], alias="gen_ai.response.finish_reasons")
    answer_cut: bool = Field(default=False, alias="rlhf.response.cut")
    """The answer was longer than what is kept of it."""
    mean_log_prob: float | None = Field(default=None, alias="rlhf.response.mean_log_prob")
    input_tokens: int | None = Field(default=None, alias="gen_ai.usage.input_tokens")
    output_tokens: int | None = Field(default=None, alias="gen_ai.usage.output_tokens")
    time_to_first_token_seconds: float | None = Field(default=None, alias="gen_ai.response.time_to_first_chunk")
    latency_seconds: float = Field(alias="rlhf.latency_seconds")
    outcome: RequestOutcome = Field(alias="rlhf.outcome")
    status: int = Field(alias="http.response.status_code")
    error_type: str | None = Field(default=None, alias="error.type")

    retrieval: list[RetrievedDocument] | None = Field(default=None, alias="gen_ai.retrieval.documents")
    tool_outcomes: list[ToolOutcome] | None = Field(default=None, alias="rlhf.tool.outcomes")
    safety_categories: list[str] | None = Field(default=None, alias="rlhf.safety.categories")
    attack_categories: list[str] | None = Field(default=None, alias="rlhf.attack.categories")
    metadata: dict[str, Any] | None = Field(default=None, alias="rlhf.metadata")
    """What else the client sent as `metadata`."""
    context_errors: list[str] | None = Field(default=None, alias="rlhf.context.errors")
    """Names of what the application sent about the request and nobody could read."""

    team: str | None = Field(default=None, alias="rlhf.team")
    feature: str | None = Field(default=None, alias="rlhf.feature")
    cohort: str | None = Field(default=None, alias="rlhf.cohort")
    language: str | None = Field(default=None, alias="rlhf.language")
    customer_tier: str | None = Field(default=None, alias="rlhf.customer_tier")
    consent: Consent | None = Field(default=None, alias="rlhf.consent")
    """Unset: the application said nothing."""
    user: str | None = Field(default=None, alias="user.hash")
    """Pseudonym of the user id."""

    redaction_version: str = Field(alias="rlhf.redaction.version")
    expires_at: AwareDatetime = Field(alias="rlhf.expires_at")
    """To be deleted after it."""
    sampling: Sampling = Field(alias="rlhf.sampling")

    def dump(self) -> dict[str, Any]:
        """The record as it is written."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


CONSENT_HEADER = "x-rlhf-consent"
CUSTOMER_TIER_HEADER = "x-rlhf-customer-tier"
USER_HEADER = "x-rlhf-user"
TURN_HEADER = "x-rlhf-turn"

Categories = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32)]

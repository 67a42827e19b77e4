"""The record of one exchange: what is known of it, in the form of api/trajectory.py, redacted. No IO.

What the application knows and the server can't comes with the request: headers x-session-id, x-rlhf-user,
x-rlhf-consent, x-rlhf-customer-tier, x-rlhf-turn and the slices' ones, and fields of the body's `metadata`: retrieval,
toolOutcomes, safetyCategories, attackCategories, and consent, customerTier, turn, user where headers can't be set.
A value may be the text of JSON, because OpenAI's clients send texts only. docs/how-to/live-signals.md tells users.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlhf_operator.api.signals import SESSION_HEADER, SLICE_HEADERS, RequestOutcome
from rlhf_operator.api.trajectory import (
    CONSENT_HEADER,
    CUSTOMER_TIER_HEADER,
    TURN_HEADER,
    USER_HEADER,
    Categories,
    Consent,
    RetrievedDocument,
    Sampling,
    ToolOutcome,
    Trajectory,
)

from .exchange import Exchange, Kind, share
from .redaction import Pseudonyms, Redactor
from .turns import input_messages, instructions, output_messages, turns_so_far

_MAX_DOCUMENTS = 100
_MAX_METADATA_CHARS = 65_536
_MAX_WORD = 128
_OPERATION = {Kind.CHAT: "chat", Kind.RESPONSES: "chat", Kind.COMPLETION: "text_completion"}
_NAMED = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")
_ELSEWHERE = frozenset({*_NAMED, "max_tokens", "max_completion_tokens", "max_output_tokens", "stop", "n", "tools"})
_RETRIEVAL = TypeAdapter(list[RetrievedDocument])
_TOOL_OUTCOMES = TypeAdapter(list[ToolOutcome])
_CATEGORIES: TypeAdapter[list[str]] = TypeAdapter(Categories)


class NotKept(Exception):
    """The exchange must not be written down. `reason` is a label of rlhf_trajectories_dropped_total."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """Where records come from: the same for all of a pod."""

    namespace: str
    rollout: str
    pod: str
    artifact_digest: str
    system_prompt_digest: str | None
    chat_template_digest: str | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What is in force when an exchange is recorded."""

    sample_rate: float
    retention_seconds: float


def trajectory_of(
    exchange: Exchange, identity: Identity, terms: Terms, redactor: Redactor, pseudonyms: Pseudonyms
) -> Trajectory:
    """The record. Raises NotKept, and whatever the redactor raises: an unredacted text is never returned."""
    if exchange.kind is Kind.OTHER or exchange.outcome is RequestOutcome.OWN_COPY:
        raise NotKept("no_answer")
    context = _Context(exchange)
    consent = context.consent()
    if consent is Consent.REFUSED:
        raise NotKept("consent")
    messages = input_messages(exchange)
    request, headers = exchange.request, exchange.headers
    started = datetime.fromtimestamp(exchange.started_at, UTC)
    user = (
        context.word("user", USER_HEADER) or _text_of(request.get("safety_identifier")) or _text_of(request.get("user"))
    )
    model = _text_of(request.get("model"))
    session = headers.get(SESSION_HEADER, "")
    retrieval, tool_outcomes = context.documents(), context.outcomes()
    fields = redactor.json(
        {
            "other_sampling": {name: value for name, value in exchange.sampling.items() if name not in _ELSEWHERE},
            "stop_sequences": _stops(request.get("stop")),
            "system_instructions": instructions(exchange),
            "input_messages": [message.model_dump(exclude_none=True) for message in messages],
            "output_messages": [message.model_dump() for message in output_messages(exchange)],
            "tool_definitions": request["tools"] if isinstance(request.get("tools"), list) else None,
            "metadata": context.rest(),
            "turn_id": context.word("turn", TURN_HEADER) or str(turns_so_far(messages)),
            "customer_tier": context.word("customerTier", CUSTOMER_TIER_HEADER),
            "safety_categories": context.categories("safetyCategories"),
            "attack_categories": context.categories("attackCategories"),
            **{name: _text_of(headers.get(header)) for name, header in SLICE_HEADERS.items()},
        }
    )
    return Trajectory(
        record_id=record_id_of(exchange),
        started_at=started,
        request_id=exchange.request_id,
        conversation_id=pseudonyms.of(session) or None,
        namespace=identity.namespace,
        pod=identity.pod,
        rollout=identity.rollout,
        revision=exchange.revision,
        served=exchange.served,
        role=exchange.role,
        adapter=model if model and model != identity.rollout else None,
        artifact_digest=identity.artifact_digest,
        system_prompt_digest=identity.system_prompt_digest,
        chat_template_digest=identity.chat_template_digest,
        operation=_OPERATION[exchange.kind],
        request_model=model,
        stream=exchange.streamed,
        **{name: _number(request.get(name)) for name in ("temperature", "top_p", "top_k")},
        **{name: _number(request.get(name)) for name in ("frequency_penalty", "presence_penalty")},
        max_tokens=next(
            (
                found
                for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")
                if (found := _count(request.get(name)))
            ),
            None,
        ),
        seed=_count(request.get("seed")),
        choice_count=_count(request.get("n")),
        finish_reasons=[exchange.finish_reason] if exchange.finish_reason else [],
        answer_cut=exchange.answer_cut,
        mean_log_prob=exchange.mean_log_prob,
        input_tokens=exchange.input_tokens,
        output_tokens=exchange.output_tokens,
        time_to_first_token_seconds=exchange.first_token_seconds if exchange.streamed else None,
        latency_seconds=exchange.seconds,
        outcome=exchange.outcome,
        status=exchange.status,
        error_type=_error_type(exchange),
        retrieval=[_passage(document, redactor) for document in retrieval] if retrieval is not None else None,
        tool_outcomes=[_came(each, redactor) for each in tool_outcomes] if tool_outcomes is not None else None,
        context_errors=context.errors or None,
        consent=consent,
        user=pseudonyms.of(user or "") or None,
        redaction_version=redactor.version,
        expires_at=started + timedelta(seconds=terms.retention_seconds),
        sampling=Sampling(bucket=round(share(exchange.request_id), 9), inclusion_probability=terms.sample_rate),
        **fields,
    )


def record_id_of(exchange: Exchange) -> str:
    """The same for the same exchange, another one for a retry with the same request id."""
    named = json.dumps(
        [exchange.request_id, exchange.role.value, exchange.revision, f"{exchange.started_at:.6f}"], ensure_ascii=True
    )
    return hashlib.sha256(named.encode()).hexdigest()[:32]


class _Context:
    """What the application says about a request; what nobody can read is named, never guessed."""

    def __init__(self, exchange: Exchange) -> None:
        metadata = exchange.request.get("metadata")
        self._metadata: dict[str, Any] = dict(metadata) if isinstance(metadata, Mapping) else {}
        self._headers = exchange.headers
        self.errors: list[str] = []

    def consent(self) -> Consent | None:
        """Raises NotKept where something was said and nobody knows what: it may have been a refusal."""
        said = [_text_of(self._headers.get(CONSENT_HEADER)), _text_of(self._metadata.pop("consent", None))]
        try:
            found = [Consent(each.lower()) for each in said if each]
        except ValueError:
            raise NotKept("consent") from None
        # Where header and body differ, the stricter one counts.
        return max(found, key=list(Consent).index, default=None)

    def word(self, name: str, header: str) -> str | None:
        """A short text, from its header or the metadata."""
        return _text_of(self._headers.get(header)) or _text_of(self._metadata.pop(name, None))

    def documents(self) -> list[RetrievedDocument] | None:
        """What the model was given to answer from."""
        value = _read(self._metadata.pop("retrieval", None))
        if isinstance(value, list):
            value = [_renamed(each) for each in value[:_MAX_DOCUMENTS]]
        found: list[RetrievedDocument] | None = self._checked("retrieval", value, _RETRIEVAL)
        return found

    def outcomes(self) -> list[ToolOutcome] | None:
        """What came of tool calls."""
        value = _read(self._metadata.pop("toolOutcomes", None))
        found: list[ToolOutcome] | None = self._checked("toolOutcomes", value, _TOOL_OUTCOMES)
        return found

    def categories(self, name: str) -> list[str] | None:
        """A list of short words."""
        found: list[str] | None = self._checked(name, _read(self._metadata.pop(name, None)), _CATEGORIES)
        return found

    def rest(self) -> dict[str, Any] | None:
        """What has no name of its own; nothing when that is large."""
        known = {"retrieval", "toolOutcomes", "safetyCategories", "attackCategories", "turn", "customerTier", "user"}
        rest = {name: value for name, value in self._metadata.items() if name not in known}
        if rest and len(json.dumps(rest)) > _MAX_METADATA_CHARS:
            self.errors.append("metadata")
            return None
        return rest or None

    def _checked(self, name: str, value: Any, adapter: TypeAdapter[Any]) -> Any:
        if value is None:
            return None
        try:
            return adapter.validate_python(value)
        except ValidationError:
            self.errors.append(name)
            return None


def _passage(document: RetrievedDocument, redactor: Redactor) -> RetrievedDocument:
    """Ids stay: they are the application's names of its own documents."""
    return document if document.text is None else document.model_copy(update={"text": redactor.text(document.text)})


def _came(outcome: ToolOutcome, redactor: Redactor) -> ToolOutcome:
    return outcome if outcome.error is None else outcome.model_copy(update={"error": redactor.text(outcome.error)})


def _renamed(document: Any) -> Any:
    if isinstance(document, Mapping) and "documentId" in document and "id" not in document:
        return {**document, "id": document["documentId"]}
    return document


def _error_type(exchange: Exchange) -> str | None:
    if exchange.outcome is RequestOutcome.OK:
        return None
    return str(exchange.status) if exchange.status >= HTTPStatus.BAD_REQUEST else exchange.outcome.value


def _stops(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    return [str(each) for each in value] if isinstance(value, list) and value else None


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _text_of(value: Any) -> str | None:
    """A short text; a number is read as its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return value.strip()[:_MAX_WORD] or None if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

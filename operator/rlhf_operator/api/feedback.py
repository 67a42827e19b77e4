"""Feedback about an answer: what POST /v1/feedback takes, and the record that is kept of it. No IO."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from .base import Model
from .trajectory import Consent

FEEDBACK_SCHEMA_VERSION: Literal["1"] = "1"
MAX_TEXT = 65_536
_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
_Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Verdict(StrEnum):
    """What somebody thinks of an answer."""

    CORRECT = "correct"
    PARTIALLY_WRONG = "partially_wrong"
    CORRECT_BUT_UNHELPFUL = "correct_but_unhelpful"
    UNSAFE = "unsafe"
    HALLUCINATED = "hallucinated"


class Thumbs(StrEnum):
    """One click."""

    UP = "up"
    DOWN = "down"


class Source(StrEnum):
    """Who says so."""

    USER = "user"
    RATER = "rater"
    SYSTEM = "system"


class Outcome(Model):
    """What came of it, often much later: a ticket that was reopened, an order that was sent back."""

    name: _Name
    value: bool | float | Annotated[str, Field(max_length=256)]
    at: AwareDatetime | None = None
    """When it happened; unset: now."""


class Feedback(Model):
    """The body of POST /v1/feedback. At least one of the judgements is set."""

    model_config = ConfigDict(hide_input_in_errors=True)

    id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The client's own name for this feedback: the same id again changes nothing. Unset: equal bodies are one."""
    verdict: Verdict | None = None
    rating: Annotated[float, Field(ge=0, le=1)] | None = None
    """From 0, the worst, to 1."""
    thumbs: Thumbs | None = None
    edit: _Text | None = None
    """The answer as it should have been."""
    chosen: _Text | None = None
    """Of two answers the one that was preferred; with `rejected`."""
    rejected: _Text | None = None
    dimensions: Annotated[dict[_Name, Annotated[float, Field(ge=0, le=1)]], Field(max_length=32)] = {}
    """Ratings from 0 to 1 by the RewardModel's dimensions."""
    task_completed: bool | None = None
    escalated: bool | None = None
    follow_up: bool | None = None
    """The user had to ask again."""
    outcome: Outcome | None = None
    comment: Annotated[str, Field(max_length=8192)] | None = None
    source: Source = Source.USER
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Id or pseudonym of who gives it; only a pseudonym is kept."""
    consent: Consent | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        said = self.model_fields_set - {"id", "source", "user", "consent"}
        if not any(getattr(self, name) not in (None, {}) for name in said):
            raise ValueError(
                "says nothing: set one of verdict, rating, thumbs, edit, chosen and rejected, dimensions, "
                "taskCompleted, escalated, followUp, outcome, comment"
            )
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected are set together: one answer alone is no preference")
        return self


class FeedbackRecord(Model):
    """One line of what is kept; texts redacted, the user a pseudonym."""

    model_config = ConfigDict(extra="ignore")

    schema_version: Literal["1"] = FEEDBACK_SCHEMA_VERSION
    record_id: str
    """The same for the same feedback about the same answer."""
    content_digest: str
    """Keyed digest of the body as it was sent: the same id with other contents is a conflict."""
    request_id: str
    """Of the answer: rlhf.request.id of its trajectory."""
    revision: str
    """That gave the answer, whoever took the feedback."""
    namespace: str
    rollout: str
    pod: str
    """That took the feedback."""
    received_at: AwareDatetime
    slices: dict[str, str] = {}
    feedback: dict[str, Any]
    """A Feedback."""
    redaction_version: str

"""What goes over the wire: requests, answers, errors. The OpenAPI document is made of these."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf_operator.api.base import to_camel

Version = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", examples=["sha256:" + "0" * 64])]


class _Wire(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class ScoreItem(_Wire):
    """One response to judge."""

    prompt: str
    """What was asked."""
    response: str
    """What was answered."""
    row: dict[str, Any] = {}
    """Columns of the data's row, for graders that compare with a reference; a model reads none."""


class ScoreRequest(_Wire):
    """Responses to judge."""

    version: Version | None = None
    """The version that must answer: another one is 409. Unset: whatever is held."""
    items: Annotated[list[ScoreItem], Field(min_length=1)]
    """At most `limits.items` of /v1/version."""


class Score(_Wire):
    """The judgement of one item."""

    dimensions: dict[str, float | None]
    """Calibrated score by dimension."""
    total: float | None
    """Mean over the dimensions; null when one of them is."""
    missing: str | None = None
    """Why there is no score; absent when there is."""


class ScoreResponse(_Wire):
    """Scores in the order of the items."""

    version: Version
    """The version that judged."""
    scores: list[Score]


class Limits(_Wire):
    """What a request may hold."""

    items: int
    text_bytes: int
    body_bytes: int


class VersionResponse(_Wire):
    """What is held."""

    version: Version
    kind: Literal["Model", "Graders"]
    """Graders read `row`; a model does not."""
    dimensions: list[str]
    limits: Limits


class ErrorDetail(_Wire):
    """Why there are no scores."""

    reason: str
    """For machines: CamelCase."""
    message: str
    """For people: what is wrong and what to do. Holds no text that was sent."""


class ErrorResponse(_Wire):
    """The body of every answer that is no success."""

    error: ErrorDetail


class Health(_Wire):
    """That the process lives, or that it may be asked."""

    status: Literal["ok"] = "ok"

"""What server and worker process say to each other: one JSON object per line. Neither side's behaviour is here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf_operator.api.policyrollout import Redaction
from rlhf_operator.api.signals import RequestOutcome, Role

from .exchange import Exchange, Kind

MIB = 1024 * 1024
_NUMBER = re.compile(rb'\{"number":(\d{1,18}),')


class WorkerSettings(BaseModel):
    """What a worker is started with: its only argument, as JSON."""

    model_config = ConfigDict(frozen=True)

    namespace: str
    rollout: str
    pod: str
    artifact_digest: str = ""
    system_prompt_digest: str | None = None
    chat_template_digest: str | None = None
    volume: Path | None
    """Where the sink's claim is mounted; none: feedback is counted and not kept, and there are no trajectories."""
    spool: Path
    pseudonym_keys: Path
    warm: Redaction | None = None
    """What is made ready before the first frame comes; none: whatever that one needs, when it comes."""
    ner_model: str | None = None
    spool_bytes: int = 256 * MIB
    """Of trajectories, and of feedback as much again."""
    file_bytes: int = 64 * MIB
    file_seconds: float = 300.0
    retry_seconds: float = 5.0
    expiry_seconds: float = 3600.0
    """Between two looks for files whose records' time is over."""


class Frame(BaseModel):
    """One line to the worker."""

    model_config = ConfigDict(frozen=True)

    number: int
    kind: Literal["exchange", "feedback"]
    redaction: Redaction
    sample_rate: float = 1.0
    retention_seconds: float = 0.0
    content: dict[str, Any]


class Reply(BaseModel):
    """One line from the worker."""

    model_config = ConfigDict(frozen=True)

    number: int
    dropped: str | None = None
    """Why it was not kept; none: it is safe."""
    duplicate: bool = False
    """It was there before."""
    counted_only: bool = False
    """There is no volume to keep it on."""
    expired: int = 0
    """Records that went because their time was over; told under number 0, of which there is no frame."""


def frame_line(number: int, head: Mapping[str, Any], content: Exchange | Mapping[str, Any]) -> bytes:
    """A frame's line. Raises ValueError, TypeError, RecursionError for what is no JSON."""
    body = exchange_json(content) if isinstance(content, Exchange) else content
    text = json.dumps({"number": number, **head, "content": body}, ensure_ascii=False, allow_nan=False, default=_plain)
    # Halves of surrogate pairs, which JSON can carry and UTF-8 can't, become question marks.
    return text.replace('{"number": ', '{"number":', 1).encode("utf-8", "replace") + b"\n"


def read_frame(line: bytes) -> Frame | Reply:
    """The frame, or the reply to one that can't be read. Raises ValueError for what is not ours at all."""
    try:
        return Frame.model_validate_json(line)
    except ValidationError:
        found = _NUMBER.match(line)
        if found is None:
            raise ValueError("a line without a number") from None
        return Reply(number=int(found[1]), dropped="defect")


def exchange_json(exchange: Exchange) -> dict[str, Any]:
    """An exchange's fields, without a copy of what they hold."""
    return {field.name: getattr(exchange, field.name) for field in dataclasses.fields(exchange)}


def exchange_of(content: Mapping[str, Any]) -> Exchange:
    """An exchange from its JSON."""
    enums = {
        "role": Role(content["role"]),
        "kind": Kind(content["kind"]),
        "outcome": RequestOutcome(content["outcome"]),
    }
    return Exchange(**{**content, **enums})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON")

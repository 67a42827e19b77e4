"""Conditions: how a wanted set is merged into the recorded one. Which conditions a kind has is the kind's matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rlhf_operator.api.meta import Condition as RecordedCondition
from rlhf_operator.api.meta import ConditionStatus

from .times import format_time

MESSAGE_BYTES = 1024
"""Longer messages are cut: Kubernetes' own limit is 32 KiB, a person's is far below."""

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as a reconcile wants it, without times."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""


def cut(text: str, limit: int = MESSAGE_BYTES) -> str:
    """Return the text, shortened to `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def find(conditions: Iterable[RecordedCondition], condition_type: str) -> RecordedCondition | None:
    """Return the recorded condition of a type."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


def is_true(conditions: Iterable[RecordedCondition], condition_type: str) -> bool:
    """Whether the condition is recorded as True."""
    found = find(conditions, condition_type)
    return found is not None and found.status == TRUE


def merge(
    recorded: Sequence[RecordedCondition], wanted: Sequence[Condition], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Return the conditions as status holds them, in the order wanted.

    `lastTransitionTime` moves only when the status of a condition changes. Conditions that are no longer wanted go.
    """
    merged: list[dict[str, Any]] = []
    for condition in wanted:
        before = find(recorded, condition.type)
        since = now
        if before is not None and before.status == condition.status and before.last_transition_time is not None:
            since = before.last_transition_time
        merged.append(
            {
                "type": condition.type,
                "status": condition.status.value,
                "reason": condition.reason,
                "message": cut(condition.message),
                "observedGeneration": generation,
                "lastTransitionTime": format_time(since),
            }
        )
    return merged


def as_recorded(conditions: Iterable[Mapping[str, Any]]) -> list[RecordedCondition]:
    """Read conditions of any Kubernetes object; what is unreadable is left out."""
    found = []
    for condition in conditions:
        try:
            found.append(RecordedCondition.model_validate(condition))
        except ValueError:
            continue
    return found

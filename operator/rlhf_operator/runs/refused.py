"""A write that the server refused, in words for a condition; and a status with a problem in its summary. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from rlhf_operator.api.meta import Condition as Recorded
from rlhf_operator.common.conditions import FALSE, TRUE, Condition, cut, merge
from rlhf_operator.common.intents import WriteFailure
from rlhf_operator.common.reasons import Reason

from .decision import Phase

SUMMARY = ("Ready", "Reconciling", "Stalled")
"""Conditions of every kind that sum up the others."""

_UNKNOWN_FIELD = "field not declared in schema"
"""The server's words for an applied object with a field that it would drop."""

REFUSED_POLL = timedelta(minutes=1)
"""What validates an object (a webhook, another version of the server) changes without anything of ours changing."""


def refused(failure: WriteFailure) -> tuple[Reason, str]:
    """Return reason and words."""
    what = f"{failure.action} {failure.resource.kind} {failure.name}"
    reason = Reason.NAME_TAKEN if failure.reason == Reason.NAME_TAKEN else Reason.WRITE_REFUSED
    if failure.reason == "Invalid" and failure.resource.kind in ("Job", "Deployment"):
        reason = Reason.TEMPLATE_INVALID
    words = f"the API server refused to {what} ({failure.reason}): {failure.message}"
    if _UNKNOWN_FIELD in failure.message:
        words += f". The cluster's CRD of {failure.resource.kind} is older than this field: update it"
    return reason, words


class Summarised(Protocol):
    """The recorded status, as far as a problem's needs it."""

    @property
    def conditions(self) -> Sequence[Recorded]:
        """As they are recorded."""
        ...


class Troubled(Protocol):
    """What a reconcile knows of any kind."""

    @property
    def status(self) -> Summarised:
        """The recorded status."""
        ...

    @property
    def raw_status(self) -> Mapping[str, Any]:
        """The same as the API server has it."""
        ...

    @property
    def generation(self) -> int:
        """Generation of the spec."""
        ...


def problem_status(
    observed: Troubled, reason: str, message: str, now: datetime, *, permanent: bool, serves: bool
) -> dict[str, Any]:
    """Return the recorded status with a problem in its summary; everything else stands as it was.

    serves: whether the kind serves: what was Ready then goes on being so.
    """
    recorded = observed.status.conditions
    wanted = problem_conditions(recorded, reason, message, permanent=permanent, serves=serves)
    return {
        **observed.raw_status,
        "observedGeneration": observed.generation,
        "phase": (Phase.STALLED if permanent else Phase.PENDING).value,
        "message": cut(message),
        "conditions": merge(recorded, wanted, observed.generation, now),
    }


def problem_conditions(
    recorded: Sequence[Recorded], reason: str, message: str, *, permanent: bool, serves: bool
) -> list[Condition]:
    """Return the recorded conditions, with the summary saying that this object is stuck, or is tried again."""
    kept = [Condition(each.type, each.status, each.reason, each.message) for each in recorded]
    ready = next((each for each in kept if each.type == "Ready" and each.status == TRUE and serves), None)
    return [
        *(each for each in kept if each.type not in SUMMARY),
        ready or Condition("Ready", FALSE, reason, message),
        Condition("Reconciling", FALSE if permanent else TRUE, reason, message),
        Condition("Stalled", TRUE if permanent else FALSE, reason, message),
    ]

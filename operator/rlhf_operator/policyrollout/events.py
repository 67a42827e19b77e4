"""Events of conditions that changed; what a rollout does is told by its decision. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_operator.api.rolloutstatus import PolicyRolloutStatus
from rlhf_operator.common.conditions import as_recorded, find
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason

TOLD = ("RouteAccepted", "CandidateAvailable", "AnalysisHealthy", "Ready", "Stalled")
QUIET = frozenset(
    {
        Reason.ROUTE_PENDING,
        Reason.ROUTE_ACCEPTED,
        Reason.NO_CANDIDATE,
        Reason.NOT_MEASURING,
        Reason.MEASURING,
        Reason.STARTING,
        Reason.FIRST_REVISION,
    }
)
"""Reasons that say only that nothing has happened yet, or that all is as it should be."""


def transitions(before: PolicyRolloutStatus, after: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return what has changed since the recorded status, in the words of the conditions."""
    return tuple(_conditions(before, after))


def _conditions(before: PolicyRolloutStatus, after: Mapping[str, Any]) -> Iterator[Event]:
    conditions = as_recorded(after.get("conditions", ()))
    told: set[str] = set()
    for name in TOLD:
        new, old = find(conditions, name), find(before.conditions, name)
        if new is None or new.reason in QUIET or new.message in told:
            continue
        if old is not None and (old.status, old.reason) == (new.status, new.reason):
            continue
        bad = new.status == "True" if name == "Stalled" else new.status == "False"
        if name == "Stalled" and not bad:
            continue
        told.add(new.message)
        yield Event("Warning" if bad else "Normal", new.reason, new.message)

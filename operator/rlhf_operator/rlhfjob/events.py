"""The events of one reconcile: transitions between the recorded status and the one to be written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.common.conditions import as_recorded, find
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.events import attempt_events
from rlhf_operator.runs.ledger import Ledger

TOLD = (
    "ReferencesResolved",
    "StorageReady",
    "Queued",
    "Running",
    "Suspended",
    "Evaluated",
    "Published",
    "Stalled",
    "Complete",
)
"""Conditions whose changes are told; Failed is Stalled's, and the others follow from attempts."""

GOOD_WHEN_TRUE = frozenset({"ReferencesResolved", "StorageReady", "Published", "Complete"})
ALARMING = frozenset(
    {
        Reason.GUARD_WARNING,
        Reason.PLAN_WARNING,
        Reason.KUEUE_NOT_RESPONDING,
        Reason.BUDGET_EXCEEDED,
        Reason.GATE_FAILED,
        Reason.GATE_USES_TRAINING_REWARD,
    }
)
QUIET = frozenset(
    {
        Reason.NOT_CHECKED,
        Reason.NOT_QUEUED,
        Reason.NOT_SUSPENDED,
        Reason.NOT_FINISHED,
        Reason.EVALUATION_PENDING,
        Reason.NOT_EVALUATED,
        Reason.SUSPENDING,
        Reason.PUBLISHING,
    }
)
"""Reasons of conditions that say only that nothing is the matter."""


def transitions(before: RLHFJobStatus, ledger: Ledger, after: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return what has happened since the recorded status, in the words of the conditions."""
    return (*attempt_events(before.attempts, ledger), *_conditions(before, after))


def _conditions(before: RLHFJobStatus, after: Mapping[str, Any]) -> Iterator[Event]:
    conditions = as_recorded(after.get("conditions", ()))
    for name in TOLD:
        new, old = find(conditions, name), find(before.conditions, name)
        if new is None or new.reason in QUIET:
            continue
        if old is not None and (old.status, old.reason) == (new.status, new.reason):
            continue
        good_from_the_start = old is None and new.status == "True" and new.reason not in ALARMING
        if good_from_the_start and name in ("ReferencesResolved", "StorageReady"):
            # Nothing was wrong, so nothing has changed.
            continue
        if name == "Stalled" and new.status != "True":
            continue
        if name == "Published" and new.reason == Reason.GATE_FAILED:
            # Told by Evaluated and Stalled already.
            continue
        if name in ("Complete", "Queued", "Running", "Suspended") and new.status != "True":
            continue
        good = new.status == "True" if name in GOOD_WHEN_TRUE else name != "Stalled"
        alarming = not good or new.reason in ALARMING
        yield Event("Warning" if alarming else "Normal", new.reason, new.message)

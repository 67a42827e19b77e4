"""The events of one reconcile: transitions between the recorded status and the one to be written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.common.conditions import as_recorded, find
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason

from .ledger import SUCCEEDED, Ledger

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
    return (*_attempts(before, ledger), *_conditions(before, after))


def _attempts(before: RLHFJobStatus, ledger: Ledger) -> Iterator[Event]:
    known = {(record.number, record.from_): record for record in before.attempts}
    for record in ledger.records:
        recorded = known.get((record.number, record.from_))
        if record.class_ is None or (recorded is not None and recorded.class_ is not None):
            continue
        if record.class_ == SUCCEEDED:
            yield Event("Normal", Reason.SUCCEEDED, f"attempt {record.number} has succeeded")
        elif record.class_ in (FailureClass.INTERRUPTED, FailureClass.DISRUPTION):
            yield Event("Normal", str(record.class_), f"attempt {record.number} was stopped: {record.reason}")
        else:
            yield Event("Warning", Reason.ATTEMPT_FAILED, f"attempt {record.number}, {record.class_}: {record.reason}")


def _conditions(before: RLHFJobStatus, after: Mapping[str, Any]) -> Iterator[Event]:
    conditions = as_recorded(after.get("conditions", ()))
    for name in TOLD:
        new, old = find(conditions, name), find(before.conditions, name)
        if new is None or new.reason in QUIET:
            continue
        if old is not None and (old.status, old.reason) == (new.status, new.reason):
            continue
        if old is None and name in ("ReferencesResolved", "StorageReady") and new.status == "True":
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

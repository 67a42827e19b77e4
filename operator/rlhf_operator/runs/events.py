"""Events of a run: attempts that have ended since the recorded status. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.jobstatus import Attempt
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason

from .ledger import SUCCEEDED, Ledger


def attempt_events(before: Sequence[Attempt], ledger: Ledger) -> Iterator[Event]:
    """Yield what became of attempts that were open, or not there, when status was written."""
    known = {(record.number, record.from_): record for record in before}
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

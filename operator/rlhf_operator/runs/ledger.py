"""The attempts of a run as status records them: numbering, opening, closing, cutting. Why one ended: classify.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.jobstatus import Attempt
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.reasons import Reason

from .views import JobView, Record

KEPT = 20
"""Attempts listed in status. Totals that must survive the cut are kept beside the list."""

REASON_BYTES = 512

SUCCEEDED = "Succeeded"
"""Class of an attempt that ended with rank 0's result."""

_OWNER = re.compile(r"\battempt (\d{1,6}) owns the workspace")

COUNTED = frozenset(
    {
        FailureClass.CRASH,
        FailureClass.STALLED,
        FailureClass.OUT_OF_MEMORY,
        FailureClass.PEER_LOST,
        FailureClass.RESULT_UNKNOWN,
    }
)
"""Classes that count against maxRestarts."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What status knows of attempts, and what this reconcile adds to it."""

    records: tuple[Attempt, ...] = ()
    restarts: int = 0
    ended_gpu_hours: float = 0.0

    @property
    def last(self) -> Attempt | None:
        """The newest record."""
        return self.records[-1] if self.records else None

    @property
    def open(self) -> Attempt | None:
        """The record of the attempt that has not ended."""
        last = self.last
        return last if last is not None and last.class_ is None else None

    def next_number(self, jobs: Sequence[JobView]) -> int:
        """Return a number that no attempt ever had, as far as status, Jobs and the workspace have said.

        A job that is created again finds its workspace with the numbers of its former life.
        """
        known = [record.number for record in self.records] + [job.attempt for job in jobs]
        known += [owner for record in self.records if (owner := _owner_named(record)) is not None]
        return max(known, default=0) + 1

    def opened(self, number: int, micro_batch_size: int | None, start: datetime | None) -> Ledger:
        """Return the ledger with an attempt begun; `start` is None until its pods may run."""
        record = Attempt(number=number, micro_batch_size=micro_batch_size, from_=start)
        return replace(self, records=(*self.records, record)[-KEPT:])

    def started(self, start: datetime) -> Ledger:
        """Return the ledger with the open attempt's start noted."""
        last = self.open
        if last is None or last.from_ is not None:
            return self
        return replace(self, records=(*self.records[:-1], last.model_copy(update={"from_": start})))

    def closed(
        self, class_: str, reason: str, end: datetime, *, gpus: int, node: str | None = None, counted: bool = False
    ) -> Ledger:
        """Return the ledger with the open attempt ended at `end`; `gpus` is what it held while it ran."""
        last = self.open
        if last is None:
            return self
        end = max(end, last.from_) if last.from_ is not None else end
        update = {"class_": class_, "reason": cut(reason, REASON_BYTES), "node": node, "to": end}
        record = last.model_copy(update=update)
        return replace(
            self,
            records=(*self.records[:-1], record),
            restarts=self.restarts + int(counted),
            ended_gpu_hours=self.ended_gpu_hours + gpu_hours(last.from_, end, gpus),
        )


def _owner_named(record: Attempt) -> int | None:
    """Return the attempt that owns the workspace, in the words of one that gave way to it."""
    named = _OWNER.search(record.reason or "") if record.class_ == FailureClass.SUPERSEDED else None
    return int(named[1]) if named is not None else None


def ledger_of(status: Record) -> Ledger:
    """Return the ledger as status has it."""
    ended = status.cost.ended_gpu_hours if status.cost is not None else None
    return Ledger(tuple(status.attempts), status.restarts or 0, ended or 0.0)


def gpu_hours(start: datetime | None, end: datetime, gpus: int) -> float:
    """Return the GPU hours of a span."""
    if start is None or end <= start:
        return 0.0
    return (end - start).total_seconds() / 3600 * gpus


def was_preempted(record: Attempt) -> bool:
    """Whether Kueue took the attempt's quota: its Job waits, and will go on under the same number."""
    return record.class_ == FailureClass.DISRUPTION and (record.reason or "").startswith(Reason.PREEMPTED)


def lost_a_pod(record: Attempt) -> bool:
    """Whether the attempt ended because somebody deleted a pod, and left no word why."""
    return record.class_ == FailureClass.DISRUPTION and (record.reason or "").startswith(Reason.POD_DELETED)

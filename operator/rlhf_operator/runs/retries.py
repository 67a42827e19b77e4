"""Whether an attempt that failed is followed by another: when, with which micro-batch, away from which nodes. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.jobstatus import Attempt
from rlhf_operator.common.reasons import Reason

from .classify import Failure
from .ledger import COUNTED, Ledger, lost_a_pod, was_preempted
from .spec import RunSpec

FIRST_DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(minutes=10)

SHORT_LIVED = timedelta(seconds=60)
"""A disruption that ends an attempt sooner than this is met with back-off too, or two parties would spin."""

ASKED_FOR = (Reason.SUSPENDED.value, Reason.BUDGET_EXCEEDED.value)
"""Reasons of attempts that the user's own settings stopped."""

FAILURES_PER_NODE = 2
"""So many failures on one node, and the next attempt prefers others."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The job has failed for good."""

    reason: Reason
    message: str


def judged(failure: Failure, ledger: Ledger) -> Failure:
    """Return the failure as it counts. A deleted pod is free, but not twice in a row: a crash may hide behind it.

    `ledger` has the attempt that failed as its open one.
    """
    if failure.otherwise is None:
        return failure
    ended = [record for record in ledger.records if record.class_ is not None]
    if ended and lost_a_pod(ended[-1]):
        return replace(failure, failure=failure.otherwise)
    return replace(failure, message=f"{Reason.POD_DELETED.value}: {failure.message}")


def verdict(failure: Failure, ledger: Ledger, spec: RunSpec) -> GiveUp | None:
    """Return why there is no next attempt, None when there is one. `ledger` is that before this failure."""
    match failure.failure:
        case FailureClass.CONFIG:
            return GiveUp(Reason.CONFIG_ERROR, f"{failure.message}. The plan can't be run as written: {spec.again}")
        case FailureClass.GUARD:
            return GiveUp(Reason.GUARD_STOPPED, failure.message)
        case FailureClass.OUT_OF_MEMORY:
            gave_up = _out_of_memory(failure, ledger, spec)
            if gave_up is not None:
                return gave_up
    if failure.failure in COUNTED and ledger.restarts >= spec.max_restarts:
        words = f"{failure.failure.value} after {ledger.restarts} restarts (maxRestarts {spec.max_restarts})"
        return GiveUp(Reason.MAX_RESTARTS_EXCEEDED, f"{words}: {failure.message}")
    return None


def _out_of_memory(failure: Failure, ledger: Ledger, spec: RunSpec) -> GiveUp | None:
    current = micro_batch_size(ledger, spec)
    if any(record.class_ == FailureClass.OUT_OF_MEMORY for record in ledger.records) or current < (
        spec.micro_batch_size
    ):
        return GiveUp(
            Reason.OUT_OF_MEMORY,
            f"{failure.message}, again with microBatchSize {current}. Give spec.compute.resources more memory, or "
            f"{spec.again} with a {spec.micro_batch_field} below {current}",
        )
    if current == 1:
        return GiveUp(
            Reason.OUT_OF_MEMORY,
            f"{failure.message}. {spec.micro_batch_field} is 1 already: give spec.compute.resources more memory",
        )
    return None


def micro_batch_size(ledger: Ledger, spec: RunSpec) -> int:
    """Return the micro-batch size in force: the newest attempt's, else the spec's."""
    sizes = [record.micro_batch_size for record in ledger.records if record.micro_batch_size]
    return sizes[-1] if sizes else spec.micro_batch_size


def next_micro_batch_size(ledger: Ledger, spec: RunSpec) -> int:
    """Return that of the next attempt: after OutOfMemory the largest divisor that is at most half."""
    current = micro_batch_size(ledger, spec)
    last = ledger.last
    if last is None or last.class_ != FailureClass.OUT_OF_MEMORY:
        return current
    return next(size for size in range(max(1, current // 2), 0, -1) if current % size == 0)


def not_before(ledger: Ledger) -> datetime | None:
    """Return when the next attempt may start, None for at once."""
    last = ledger.last
    if last is None or last.class_ is None or last.to is None:
        return None
    if last.class_ in COUNTED:
        return last.to + delay(max(1, ledger.restarts))
    free = 0
    for record in reversed(ledger.records):
        if record.class_ in COUNTED or not _spinning(record):
            break
        free += 1
    return last.to + delay(free) if free else None


def delay(failures: int) -> timedelta:
    """Return 10 s, doubled with every failure after the first, at most 10 minutes."""
    doubled: timedelta = FIRST_DELAY * 2 ** min(failures - 1, 10)
    return min(doubled, LONGEST_DELAY)


def _spinning(record: Attempt) -> bool:
    """Whether an attempt ended so soon, or so, that another at once might only do the same."""
    if record.class_ in (FailureClass.SUPERSEDED, FailureClass.GANG_NOT_SCHEDULED):
        return True
    asked_for = was_preempted(record) or (record.reason or "").startswith(ASKED_FOR)
    if asked_for or record.to is None:
        return False
    return record.from_ is None or record.to - record.from_ < SHORT_LIVED


def nodes_to_avoid(ledger: Ledger) -> tuple[str, ...]:
    """Return the nodes on which two or more attempts failed, sorted."""
    failures = Counter(record.node for record in ledger.records if record.node and record.class_ in COUNTED)
    return tuple(sorted(node for node, count in failures.items() if count >= FAILURES_PER_NODE))

"""Queueing by Kueue: it owns the Job's `suspend`; here its state is only read and put into words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rlhf_operator.api.jobstatus import Attempt
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.times import for_people

from .ledger import was_preempted
from .spec import RunSpec
from .views import JobView, WorkloadView


@dataclass(frozen=True, slots=True)
class Queueing:
    """Where an attempt stands in its queue."""

    reason: Reason
    message: str
    wake_at: datetime | None = None


def waiting_for_kueue(job: str, number: int, spec: RunSpec) -> str:
    """Return the words of an attempt whose Job was just made."""
    return f"attempt {number} {_not_taken(job, spec.compute.queue_name or 'its queue')}"


def _not_taken(job: str, queue: str) -> str:
    return f"waits for Kueue to take Job {job} into queue {queue}"


def queueing(
    job: JobView, workload: WorkloadView | None, last: Attempt | None, now: datetime, timeout_seconds: float
) -> Queueing:
    """Return the state of a Job that Kueue holds suspended."""
    queue = job.queue_name or "its queue"
    preempted = last is not None and (was_preempted(last) or last.from_ is not None)
    if workload is None:
        deadline = job.created_at + timedelta(seconds=timeout_seconds)
        if now >= deadline:
            return Queueing(
                Reason.KUEUE_NOT_RESPONDING,
                f"Kueue has made no Workload for Job {job.name} in {for_people(timeout_seconds)}: is Kueue installed, "
                f"does it manage this namespace, and does LocalQueue {queue} exist? The job goes on when it answers",
            )
        return Queueing(Reason.QUEUED, _not_taken(job.name, queue), deadline)
    if preempted:
        why = workload.evicted or "Preempted"
        words = workload.message or "waits to be admitted again"
        return Queueing(Reason.PREEMPTED, f"Kueue took the quota back ({why}); keeps its place in {queue}: {words}")
    return Queueing(Reason.QUEUED, f"waits in queue {queue}: {workload.message or 'not admitted yet'}")

"""The time in which all workers must have started, and what keeps one from it in the scheduler's words. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from rlhf_operator.common.times import for_people

from .spec import RunSpec
from .views import JobView

PODS_AFTER = timedelta(seconds=10)
"""Time in which the Job controller has long created the pods that it can create."""

LONGEST_POLL = timedelta(seconds=60)


def all_started(job: JobView) -> bool:
    """Whether the trainer of every index has started at least once."""
    return len({pod.index or 0 for pod in job.pods if pod.started}) == job.workers


def deadline(job: JobView, spec: RunSpec) -> datetime | None:
    """Return when an attempt that has not started whole is given up; None while its Job is suspended."""
    if job.started_at is None or job.suspended:
        return None
    return job.started_at + timedelta(seconds=spec.timeouts.startup.seconds)


def look_for_pods_at(job: JobView, now: datetime) -> datetime | None:
    """Return when to ask why pods were not even created, None when all were: nothing of ours changes meanwhile."""
    if job.started_at is None or len(job.pods) >= job.workers:
        return None
    return max(job.started_at + PODS_AFTER, now + min(max((now - job.started_at) / 2, PODS_AFTER), LONGEST_POLL))


def what_keeps(job: JobView, pod_refusal: str | None = None) -> str:
    """Return who is missing and why, in the Job controller's, the scheduler's or the kubelet's words."""
    missing = sorted(set(range(job.workers)) - {pod.index or 0 for pod in job.pods if pod.started})
    words = sorted({pod.waiting for pod in job.pods if pod.waiting and not pod.started})
    if pod_refusal is not None and len(job.pods) < job.workers:
        words.insert(0, pod_refusal)
    who = not_started(len(missing), job.workers)
    return f"{who}: {'; '.join(words)}" if words else who


def not_started(missing: int, workers: int) -> str:
    """Return how many are missing."""
    return f"{missing} of {workers} pods have not started"


def gave_up(job: JobView, spec: RunSpec, pod_refusal: str | None = None) -> str:
    """Return the reason of an attempt that did not start in time."""
    return (
        f"{what_keeps(job, pod_refusal)}; given up after {for_people(spec.timeouts.startup.seconds)} (timeouts.startup)"
    )

"""Why an attempt ended: from its pods' exits, the words of rank 0, and the Job's own condition. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from rlhf_operator.api.exitcodes import ExitCode, FailureClass, failure_class
from rlhf_operator.api.result import TerminationMessage

from .views import JobView, PodView

ROOT_CAUSE_ORDER = (
    FailureClass.CONFIG,
    FailureClass.GUARD,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.DISRUPTION,
    FailureClass.STALLED,
    FailureClass.CRASH,
    FailureClass.SUPERSEDED,
    FailureClass.INTERRUPTED,
    FailureClass.PEER_LOST,
)
"""When pods of one attempt ended differently, the first of these is the cause and the others its consequences."""

DISRUPTION_REASONS = frozenset({"Evicted", "Preempting", "NodeLost", "Shutdown", "NodeShutdown", "Terminated"})
"""Reasons that the kubelet and the node controller write into a pod they took away."""

CONSEQUENCES = (FailureClass.INTERRUPTED, FailureClass.PEER_LOST)
"""Classes that say what somebody else did to a pod."""

_LEFT_BY_DELETION = (None, 128 + 15, 128 + 9, ExitCode.INTERRUPTED, ExitCode.PEER_LOST)
"""How a trainer ends in a pod that is deleted while it runs: not at all, by a signal, or as it was told."""

_EXIT_IN_JOB_MESSAGE = re.compile(r"Container trainer for pod \S+?/(\S+) failed with exit code (\d+) matching")
_DISRUPTION_IN_JOB_MESSAGE = re.compile(r"Pod \S+?/(\S+) has condition DisruptionTarget matching")


@dataclass(frozen=True, slots=True)
class Success:
    """Rank 0 said so."""

    verdict: TerminationMessage


@dataclass(frozen=True, slots=True)
class Failure:
    """The attempt ended without a result, and this is why."""

    failure: FailureClass
    message: str
    node: str | None = None
    """The node that may be to blame: never that of a victim."""
    verdict: TerminationMessage | None = None
    otherwise: FailureClass | None = None
    """A pod was deleted and left no word. What it counts as when that is all that happens to the job: `retries.py`."""


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """The attempt ended and nothing says how: its pods were gone before they were read."""

    message: str

    def failure(self, job: JobView, words: str) -> Failure:
        """Return the failure of an attempt that left no result either."""
        message = f"{self.message}; {words}"
        if job.failed:
            # A pod that fails by itself stays: somebody took it away.
            return Failure(FailureClass.DISRUPTION, message, otherwise=FailureClass.RESULT_UNKNOWN)
        return Failure(FailureClass.RESULT_UNKNOWN, message)


Ending = Success | Failure | NoVerdict


def ending(job: JobView, plan_digest: str | None, now: datetime) -> Ending:
    """Return how an attempt ended that is over.

    Success is rank 0's word alone: a Job that is Complete without it has no verdict yet.
    """
    verdict = job.verdict
    if verdict is not None and verdict.failure is None and verdict.plan_digest == plan_digest:
        return Success(verdict)
    causes = _causes(job, now)
    from_job = _cause_in_condition(job)
    if from_job is not None:
        causes.append(from_job)
    if not causes:
        return NoVerdict(f"{job.name} ended ({job.failed_reason or 'Complete'}) and no pod is left to say how")
    best = min(causes, key=lambda cause: ROOT_CAUSE_ORDER.index(cause.failure))
    if best.failure in CONSEQUENCES:
        return _without_root_cause(job, best)
    # Which of several began is not known, and no node is blamed on a guess.
    alone = sum(cause.failure == best.failure for cause in causes) == 1 or job.workers == 1
    blamed = best.node if alone and best.failure is not FailureClass.PEER_LOST else None
    return Failure(best.failure, best.message, blamed, verdict)


def _causes(job: JobView, now: datetime) -> list[Failure]:
    """Return what its pods say.

    What a deleted pod still shows is gone a moment later: it counts only where nobody else says anything, and it says
    that it was asked to stop and did.
    """
    staying = [pod for pod in job.pods if not _deleted(pod, now)]
    asked_to_stop = [pod for pod in job.pods if pod.exit_code == ExitCode.INTERRUPTED]
    found = [cause for pod in staying if (cause := _cause_of(pod, now)) is not None]
    return found or [cause for pod in asked_to_stop if (cause := _cause_of(pod, now)) is not None]


def _cause_of(pod: PodView, now: datetime) -> Failure | None:
    where = f"pod {pod.name}" + (f" on node {pod.node}" if pod.node else "")
    if pod.exit_code == 0 and pod.disruption is None:
        return None
    if pod.disruption is not None or pod.reason in DISRUPTION_REASONS:
        return Failure(FailureClass.DISRUPTION, f"{where} was taken away ({pod.disruption or pod.reason})", pod.node)
    if pod.exit_code is not None:
        if pod.exit_reason == "OOMKilled":
            words = "was OOMKilled: it used more than its memory limit"
            return Failure(FailureClass.OUT_OF_MEMORY, f"{where} {words}", pod.node)
        failure = failure_class(pod.exit_code)
        return Failure(failure, f"{where} exited {pod.exit_code} ({failure.value}): {_words(pod)}", pod.node)
    if pod.overdue(now):
        return Failure(FailureClass.DISRUPTION, f"{where} does not end: its node does not answer", pod.node)
    if pod.phase == "Failed":
        return Failure(FailureClass.CRASH, f"{where} failed: {pod.reason or 'Failed'} {pod.message}".rstrip(), pod.node)
    return None


def _words(pod: PodView) -> str:
    try:
        message = TerminationMessage.model_validate_json(pod.termination_message)
    except ValueError:
        # The end of the log, as the kubelet kept it: its last line says most.
        lines = [line.strip() for line in pod.termination_message.splitlines() if line.strip()]
        return lines[-1][:300] if lines else pod.exit_reason or "no message"
    return message.message or message.reason


def _cause_in_condition(job: JobView) -> Failure | None:
    """Read the Failed condition, which outlives the pod that it names."""
    exited = _EXIT_IN_JOB_MESSAGE.search(job.failed_message)
    if exited is not None:
        known = next((pod for pod in job.pods if pod.name == exited[1]), None)
        if known is None:
            failure = failure_class(int(exited[2]))
            return Failure(failure, f"pod {exited[1]} exited {exited[2]} ({failure.value}); the pod is gone")
    disrupted = _DISRUPTION_IN_JOB_MESSAGE.search(job.failed_message)
    if disrupted is not None:
        return Failure(FailureClass.DISRUPTION, f"pod {disrupted[1]} was taken away by the cluster")
    return None


def _deleted(pod: PodView, now: datetime) -> bool:
    """Whether a pod was deleted while its trainer ran, by somebody who gave no reason.

    The Job controller does it too, to the pods that are left when one has failed: it explains nothing by itself.
    """
    if pod.deleting_since is None or pod.disruption is not None or pod.reason in DISRUPTION_REASONS:
        return False
    return pod.exit_code in _LEFT_BY_DELETION and pod.exit_reason != "OOMKilled" and not pod.overdue(now)


def _without_root_cause(job: JobView, consequence: Failure) -> Failure:
    """A rank lost its peer and the peer's pod is gone or going: a pod that fails by itself stays, so it was deleted."""
    said = {pod.index for pod in job.pods if pod.ended and pod.deleting_since is None}
    missing = sorted(set(range(job.workers)) - said)
    if consequence.failure is FailureClass.PEER_LOST and missing:
        named = ", ".join(str(index) for index in missing)
        message = f"the pod of index {named} was deleted; {consequence.message}"
        return Failure(FailureClass.DISRUPTION, message, otherwise=FailureClass.PEER_LOST)
    return Failure(consequence.failure, consequence.message, None, job.verdict)

"""The pod's last words: a termination message of at most 3 KiB. Who decides what they are is elsewhere."""

import os
from pathlib import Path

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.result import MAX_FIGURES, Result, TerminationMessage

TERMINATION_LOG = "/dev/termination-log"


def write_termination_message(message: TerminationMessage) -> None:
    """Write the message where the kubelet reads it (or where RLHF_TERMINATION_LOG says)."""
    Path(os.environ.get("RLHF_TERMINATION_LOG", TERMINATION_LOG)).write_bytes(message.encode())


def success_message(result: Result) -> TerminationMessage:
    """Return the message of a run that has its result."""
    return TerminationMessage(
        plan_digest=result.plan_digest,
        attempt=result.attempt,
        reason="Complete",
        message=f"{result.step} steps done; policy {result.policy_digest}",
        step=result.step,
        figures=dict(list(result.figures.items())[:MAX_FIGURES]),
        checkpoint=result.checkpoint,
        evaluation=result.evaluation,
    )


def failure_message(
    plan_digest: str, attempt: int, failure: FailureClass, reason: str, message: str
) -> TerminationMessage:
    """Return the message of a run that ended without a result."""
    return TerminationMessage(plan_digest=plan_digest, attempt=attempt, failure=failure, reason=reason, message=message)

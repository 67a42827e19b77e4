"""The pod's last words: a termination message of at most 3 KiB. Who decides what they are is elsewhere."""

import os
from pathlib import Path

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.result import MAX_FIGURES, Result, TerminationMessage
from rlhf_operator.api.rewardgate import RewardFigures

SLICES_TOLD = 8
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
        message=f"{result.step} steps done; model {result.policy_digest}",
        step=result.step,
        figures=dict(list(result.figures.items())[:MAX_FIGURES]),
        checkpoint=result.checkpoint,
        evaluation=result.evaluation,
        suites=result.suites,
        slices=result.slices[:SLICES_TOLD],
        reward=weakest(result.reward),
    )


def weakest(figures: list[RewardFigures]) -> RewardFigures | None:
    """The figures of the dimension with the lowest accuracy; one that was not measured is the weakest of all."""
    return min(figures, key=lambda each: -1.0 if each.accuracy is None else each.accuracy, default=None)


def failure_message(
    plan_digest: str, attempt: int, failure: FailureClass, reason: str, message: str
) -> TerminationMessage:
    """Return the message of a run that ended without a result."""
    return TerminationMessage(plan_digest=plan_digest, attempt=attempt, failure=failure, reason=reason, message=message)

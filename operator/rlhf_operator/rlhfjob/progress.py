"""The last reading of a running job, for status. Asking rank 0's pod is observe.py's part. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rlhf_operator.api.jobstatus import CheckpointStatus, RLHFJobStatus
from rlhf_operator.api.jobstatus import Progress as ProgressStatus
from rlhf_operator.api.result import Progress, TerminationMessage


def due(status: RLHFJobStatus, now: datetime, interval_seconds: float) -> bool:
    """Whether it is time to ask again. Counted from the operator's own clock: a node's may be wrong."""
    last = status.progress.updated_at if status.progress is not None else None
    return last is None or now >= last + timedelta(seconds=interval_seconds)


def progress_status(
    status: RLHFJobStatus, reading: Progress | None, verdict: TerminationMessage | None, now: datetime
) -> ProgressStatus | None:
    """Return the newest known figures: the final ones, the reading's, or those recorded when there is neither."""
    before = status.progress
    if verdict is not None and verdict.failure is None and verdict.step is not None:
        return _final(before or ProgressStatus(), verdict, now)
    if reading is None:
        return before
    after = ProgressStatus(
        step=reading.step,
        steps=reading.steps,
        reward=reading.reward,
        kl=reading.kl,
        entropy=reading.entropy,
        tokens_per_second=reading.tokens_per_second,
        eta_seconds=None if reading.eta_seconds is None else round(reading.eta_seconds),
        updated_at=now,
    )
    if before is not None and after.model_copy(update={"updated_at": before.updated_at}) == before:
        return before
    return after


def _final(last: ProgressStatus, verdict: TerminationMessage, now: datetime) -> ProgressStatus:
    """The last reading is older than the end: what rank 0 said last of all stands."""
    shown = ("reward", "kl", "entropy")
    known: dict[str, Any] = {name: value for name, value in verdict.figures.items() if name in shown}
    update = known | {"step": verdict.step, "steps": verdict.step, "eta_seconds": 0, "updated_at": now}
    return last.model_copy(update=update)


def checkpoint_status(
    status: RLHFJobStatus, reading: Progress | None, verdict: TerminationMessage | None
) -> CheckpointStatus | None:
    """Return the newest complete checkpoint that any source names. It never goes backwards within one plan."""
    known = [status.checkpoint] if status.checkpoint is not None else []
    if reading is not None and reading.checkpoint_step is not None:
        known.append(CheckpointStatus(step=reading.checkpoint_step, digest=reading.checkpoint_digest))
    if verdict is not None and verdict.checkpoint is not None:
        known.append(CheckpointStatus(step=verdict.checkpoint.step, digest=verdict.checkpoint.digest))
    return max(known, key=lambda checkpoint: checkpoint.step or 0, default=None)


def min_checkpoint_step(status: RLHFJobStatus) -> int:
    """Return the step that the next attempt must find at least: 0 when no checkpoint is known."""
    return (status.checkpoint.step or 0) if status.checkpoint is not None else 0

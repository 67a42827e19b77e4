"""The last reading of a running job, for status. Asking rank 0's pod is observe.py's part. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rlhf_operator.api.jobstatus import CheckpointStatus, ScorerProgress
from rlhf_operator.api.jobstatus import Progress as ProgressStatus
from rlhf_operator.api.result import Progress, TerminationMessage
from rlhf_operator.common.times import for_people

from .ledger import Ledger
from .spec import RunSpec
from .views import Record, Run

MAX_SCORERS = 16
STALLED_AFTER = 2
"""Times timeouts.progress: the watchdog beside the ranks comes first, and keeps their stacks."""


def due(status: Record, now: datetime, interval_seconds: float) -> bool:
    """Whether it is time to ask again. Counted from the operator's own clock: a node's may be wrong."""
    last = status.progress.updated_at if status.progress is not None else None
    return last is None or now >= last + timedelta(seconds=interval_seconds)


def progress_status(
    status: Record, reading: Progress | None, verdict: TerminationMessage | None, now: datetime
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
        loss=reading.loss,
        accuracy=reading.accuracy,
        tokens_per_second=reading.tokens_per_second,
        scorers=[ScorerProgress(name=each.name, p95_seconds=each.p95_seconds) for each in reading.scorers[:MAX_SCORERS]]
        or None,
        eta_seconds=None if reading.eta_seconds is None else round(reading.eta_seconds),
        updated_at=now,
    )
    if before is not None and after.model_copy(update={"updated_at": before.updated_at}) == before:
        return before
    return after


def silent(observed: Run, spec: RunSpec, ledger: Ledger, now: datetime) -> str | None:
    """Return that a running attempt makes no steps and its own watchdog does not end it, None when it does or may.

    Held only against readings that arrived: no answer is no news. What has no steps to show (a warm start, the
    evaluations before the first step and after the last) is the watchdog's alone.
    """
    reading, before, running = observed.progress, observed.status.progress, ledger.open
    if reading is None or running is None or running.from_ is None or reading.step >= reading.steps:
        return None
    since = running.from_
    if progress_status(observed.status, reading, None, now) != before:
        return None
    patience = STALLED_AFTER * spec.timeouts.progress.seconds
    if reading.reward is None and reading.loss is None:
        # No step of this attempt is done.
        if reading.step == 0 and spec.measures_first:
            return None
        patience += spec.timeouts.startup.seconds
    elif before is not None and before.updated_at is not None:
        since = max(since, before.updated_at)
    passed = (now - since).total_seconds()
    if passed <= patience:
        return None
    return (
        f"no new step after step {reading.step} for {for_people(passed)}, more than {for_people(patience)} "
        "(timeouts.progress), and the trainer's own watchdog did not end it"
    )


def _final(last: ProgressStatus, verdict: TerminationMessage, now: datetime) -> ProgressStatus:
    """The last reading is older than the end: what rank 0 said last of all stands."""
    shown = ("reward", "kl", "entropy", "loss", "accuracy")
    known: dict[str, Any] = {name: value for name, value in verdict.figures.items() if name in shown}
    update = known | {"step": verdict.step, "steps": verdict.step, "eta_seconds": 0, "updated_at": now}
    return last.model_copy(update=update)


def checkpoint_status(
    status: Record, reading: Progress | None, verdict: TerminationMessage | None
) -> CheckpointStatus | None:
    """Return the newest complete checkpoint that any source names. It never goes backwards within one plan."""
    known = [status.checkpoint] if status.checkpoint is not None else []
    if reading is not None and reading.checkpoint_step is not None:
        known.append(CheckpointStatus(step=reading.checkpoint_step, digest=reading.checkpoint_digest))
    if verdict is not None and verdict.checkpoint is not None:
        known.append(CheckpointStatus(step=verdict.checkpoint.step, digest=verdict.checkpoint.digest))
    return max(known, key=lambda checkpoint: checkpoint.step or 0, default=None)


def min_checkpoint_step(status: Record) -> int:
    """Return the step that the next attempt must find at least: 0 when no checkpoint is known."""
    return (status.checkpoint.step or 0) if status.checkpoint is not None else 0

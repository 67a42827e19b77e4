"""Which rollouts have ended since status was written, told from status and route; whom one can go back to. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from rlhf_operator.api.rolloutstatus import HistoryEntry, PolicyRolloutStatus
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.reasons import Reason

from . import recorded
from .views import PROMOTE, ROLLBACK, Observed, Rejection, Traffic, Trouble

LIMIT = 20
"""Ended rollouts that status keeps."""
REMEMBERED = 10
"""Rejected revisions that the route keeps."""
WORDS = 512


class Ending(StrEnum):
    """How a rollout ended."""

    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"
    INFRASTRUCTURE = "Infrastructure"


def ended(observed: Observed, traffic: Traffic | None, by: str | None, now: datetime) -> HistoryEntry | None:
    """Return the rollout that status still has and the route has no more; `by` is who asked for it, if anybody did.

    Nothing is lost when the operator dies between the two writes: what is compared are the two records.
    """
    if traffic is None:
        return None
    status = observed.status
    stable, candidate = recorded.stable_of(status), recorded.candidate_of(status)
    if candidate and candidate != traffic.candidate:
        return _gone(observed, traffic, candidate, by, now)
    if stable == traffic.stable:
        return None
    if any(each.revision == traffic.stable for each in status.history[:1] if each.outcome == Ending.PROMOTED):
        return None
    rejection = rejection_of(traffic, stable)
    if stable and rejection is not None:
        return _entry(observed, traffic.stable, Ending.PROMOTED, Reason.ROLLED_BACK, rejection.message, by, now)
    if not stable and not status.history:
        words = "the first revision: all traffic from the beginning"
        return _entry(observed, traffic.stable, Ending.PROMOTED, Reason.FIRST_REVISION, words, by, now)
    return _entry(observed, traffic.stable, Ending.PROMOTED, Reason.ADOPTED, "found serving", by, now)


def _gone(observed: Observed, traffic: Traffic, candidate: str, by: str | None, now: datetime) -> HistoryEntry:
    if traffic.stable == candidate:
        before = rejection_of(traffic, recorded.stable_of(observed.status))
        if before is not None and before.reason == Reason.ROLLED_BACK:
            return _entry(observed, candidate, Ending.PROMOTED, Reason.ROLLED_BACK, before.message, by, now)
        words = "took over all traffic"
        step = observed.status.step.name if observed.status.step is not None else ""
        if by or step == PROMOTE:
            words += f", promoted by {by}" if by else ", by command"
        return _entry(observed, candidate, Ending.PROMOTED, Reason.PROMOTED, words, by, now)
    rejection = rejection_of(traffic, candidate)
    if rejection is not None:
        ending = Ending.ABORTED if rejection.reason == Reason.ABORTED else Ending.ROLLED_BACK
        return _entry(observed, candidate, ending, rejection.reason, rejection.message, by, now)
    if observed.status.step is not None and observed.status.step.name == ROLLBACK:
        words = f"going back to it was called off{f' by {by}' if by else ''}"
        return _entry(observed, candidate, Ending.ABORTED, Reason.ABORTED, words, by, now)
    if traffic.candidate or observed.wanted.revision not in (None, candidate):
        other = traffic.candidate or observed.wanted.revision
        words = f"{other} was asked for instead"
        return _entry(observed, candidate, Ending.SUPERSEDED, Reason.SUPERSEDED, words, by, now)
    pods = observed.pods.get(candidate)
    words = pods.words if pods is not None and pods.words else "its pods were not ready in time"
    reason = Reason.INFRASTRUCTURE
    if pods is None or pods.trouble is not Trouble.INFRASTRUCTURE:
        reason = Reason.PROGRESS_DEADLINE_EXCEEDED
    return _entry(observed, candidate, Ending.INFRASTRUCTURE, reason, words, by, now)


def _entry(
    observed: Observed, revision: str, ending: Ending, reason: str, words: str, by: str | None, now: datetime
) -> HistoryEntry:
    candidate = recorded.variant(observed.status, recorded.CANDIDATE)
    ours = candidate.revision == revision
    return HistoryEntry(
        revision=revision,
        outcome=ending.value,
        reason=str(reason),
        message=cut(words, WORDS) or None,
        by=by,
        metrics=list(observed.status.analysis) if ours else [],
        from_=candidate.since if ours else None,
        to=now,
    )


def recorded_history(status: PolicyRolloutStatus, entry: HistoryEntry | None) -> tuple[HistoryEntry, ...]:
    """Return the history with what has just ended at its head.

    Waiting for nodes again and again is one entry, which gets longer.
    """
    if entry is None:
        return tuple(status.history)
    before = list(status.history)
    if before and entry.outcome == Ending.INFRASTRUCTURE == before[0].outcome and before[0].revision == entry.revision:
        entry = entry.model_copy(update={"from_": before[0].from_ or entry.from_})
        before = before[1:]
    return (entry, *before)[:LIMIT]


def promoted(history: Sequence[HistoryEntry], stable: str) -> list[str]:
    """Return the revisions that were promoted before stable, the last one first."""
    found = [each.revision for each in history if each.outcome == Ending.PROMOTED and each.revision != stable]
    return list(dict.fromkeys(found))


def rejection_of(traffic: Traffic, revision: str) -> Rejection | None:
    """Return why a revision is not tried again."""
    return next((each for each in traffic.rejected if each.revision == revision), None)


def remembered(rejected: Sequence[Rejection], *new: Rejection) -> tuple[Rejection, ...]:
    """Return the rejected revisions with new ones first; of the oldest, the route has no room."""
    names = {each.revision for each in new}
    return (*new, *(each for each in rejected if each.revision not in names))[:REMEMBERED]

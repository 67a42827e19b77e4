"""What the status says was so, read back: revisions, pause, the clock of the stage under way. Pure.

Status follows the route, and a write of it may be lost: what it says counts only where it agrees with the route.
"""

from __future__ import annotations

from datetime import datetime

from rlhf_operator.api.meta import ConditionStatus
from rlhf_operator.api.rolloutstatus import PolicyRolloutStatus, Variant
from rlhf_operator.common.conditions import find

from .decision import Pause
from .views import Traffic

STABLE, CANDIDATE = "Stable", "Candidate"
"""Names in status.variants."""
PAUSED = "Paused"
"""The condition that remembers a pause."""


def variant(status: PolicyRolloutStatus, name: str) -> Variant:
    """Return the recorded variant; an empty one when there is none."""
    return next((each for each in status.variants if each.name == name), Variant(name=name))


def stable_of(status: PolicyRolloutStatus) -> str:
    """Return the revision recorded as stable, or nothing."""
    return variant(status, STABLE).revision or ""


def candidate_of(status: PolicyRolloutStatus) -> str:
    """Return the revision recorded as candidate, or nothing."""
    return variant(status, CANDIDATE).revision or ""


def agrees(status: PolicyRolloutStatus, traffic: Traffic) -> bool:
    """Whether the status knows the revisions of the route: until it does, their history is not written."""
    return stable_of(status) == traffic.stable and candidate_of(status) == traffic.candidate


def pause_of(status: PolicyRolloutStatus, traffic: Traffic) -> Pause | None:
    """Return the pause of the candidate under way."""
    found = find(status.conditions, PAUSED)
    if found is None or found.status != ConditionStatus.TRUE or not traffic.candidate:
        return None
    return Pause(found.reason, found.message) if candidate_of(status) == traffic.candidate else None


def clock(status: PolicyRolloutStatus, traffic: Traffic, now: datetime) -> datetime | None:
    """Return when the stage under way began, if that is on record for exactly the traffic that the route carries.

    A moment that lies ahead comes from another clock: it counts as now.
    """
    found, step = variant(status, CANDIDATE), status.step
    if step is None or step.started_at is None or not traffic.candidate:
        return None
    same = (
        found.revision == traffic.candidate
        and step.name == traffic.step
        and (found.weight or 0) == traffic.weight
        and (found.mirror_percent or 0) == traffic.mirror
    )
    return min(step.started_at, now) if same else None

"""One move of a rollout, and the small ways of making one that every situation shares. No situation is judged here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason

from .commands import Done, Ignored
from .decision import Outlook, Pause
from .history import remembered
from .views import STARTING, Rejection, Traffic


@dataclass(frozen=True, slots=True)
class Move:
    """What the route says next, and why."""

    traffic: Traffic | None
    outlook: Outlook
    pause: Pause | None = None
    restarts: bool = False
    """Whether the clock of the stage begins anew."""
    answer: Done | Ignored | None = None
    """What became of the command, if one was looked at."""
    events: tuple[Event, ...] = ()
    wake_at: datetime | None = None


def sent_back(traffic: Traffic, rejection: Rejection) -> Traffic:
    """Return the route without its candidate, which is not tried again."""
    return Traffic(traffic.stable, rejected=remembered(traffic.rejected, rejection))


def withdrawn(traffic: Traffic) -> Traffic:
    """Return the route without its candidate, which is not blamed."""
    return Traffic(traffic.stable, rejected=traffic.rejected)


def taken_over(traffic: Traffic) -> Traffic:
    """Return the route in which the candidate is stable. No pod changes."""
    return Traffic(traffic.candidate, rejected=traffic.rejected)


def begun(traffic: Traffic, candidate: str) -> Traffic:
    """Return the route with a new candidate whose pods come up; it has no traffic."""
    return Traffic(traffic.stable, candidate=candidate, step=STARTING, rejected=traffic.rejected)


def same_requests(one: Traffic | None, other: Traffic | None) -> bool:
    """Whether two routes send the same requests in the same stage; what they remember may differ."""
    if one is None or other is None:
        return one is other
    return replace(one, rejected=()) == replace(other, rejected=())


def describes(traffic: Traffic) -> str:
    """Return what the candidate gets, for people."""
    parts = [f"weight {traffic.weight} %"]
    if traffic.mirror:
        parts.append(f"mirror {traffic.mirror} %")
    if traffic.headers:
        parts.append(f"requests with {', '.join(name for name, _, _ in traffic.headers)}")
    return ", ".join(parts)


def candidate_started(revision: str, stable: str) -> Event:
    """Return the event of a new candidate."""
    return Event("Normal", Reason.CANDIDATE_STARTED, f"{revision} is the candidate beside stable {stable}")

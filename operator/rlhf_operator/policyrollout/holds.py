"""How long a stage lasts: the arithmetic of `hold` and `bake`. What is measured meanwhile is the analysis' business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.times import format_time

from .decision import Gate, GateState
from .steps import Place
from .views import BAKE


@dataclass(frozen=True, slots=True)
class Held:
    """Where a stage's clock stands."""

    started: datetime
    minimum: timedelta
    """Shortest time."""
    maximum: timedelta | None = None
    """Longest time; None: no end."""
    samples: int | None = None
    """Fewest samples of the candidate."""

    @property
    def until(self) -> datetime:
        """When the shortest time is over."""
        return self.started + self.minimum

    @property
    def latest(self) -> datetime | None:
        """When the longest time is over."""
        return self.started + self.maximum if self.maximum is not None else None

    def over(self, now: datetime) -> bool:
        """Whether the shortest time is over."""
        return now >= self.until

    def expired(self, now: datetime) -> bool:
        """Whether the longest time is over."""
        return self.latest is not None and now >= self.latest


def held(spec: PolicyRolloutSpec, place: Place, started: datetime) -> Held:
    """Return the hold of the stage at `place`, which began at `started`; no hold is one of no length."""
    if place.name == BAKE:
        return Held(started, spec.strategy.bake.timedelta)
    hold = place.step.hold if place.step is not None else None
    if hold is None:
        return Held(started, timedelta())
    maximum = hold.maximum.timedelta if hold.maximum is not None else None
    return Held(started, hold.minimum.timedelta, maximum, hold.samples)


def hold_gate(spec: PolicyRolloutSpec, place: Place, started: datetime | None, now: datetime) -> Gate:
    """Return the gate of a stage in which nothing is measured: its time alone."""
    if started is None:
        return Gate(GateState.WAIT, Reason.WAITING_FOR_ROUTE, "waits for the gateway to accept the route")
    hold = held(spec, place, started)
    if hold.over(now):
        return Gate(GateState.ADVANCE)
    # A moment, not what is left of it: words that change at every look would make each a write.
    words = f"holds until {format_time(hold.until)}"
    return Gate(GateState.WAIT, Reason.STEP_UNDER_WAY, words, wake_at=hold.until)

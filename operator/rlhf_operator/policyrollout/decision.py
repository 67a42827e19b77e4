"""What one look at a PolicyRollout decides, before it becomes manifests and a status. No logic lives here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rlhf_operator.api.rolloutstatus import CommandStatus, HistoryEntry, StepStatus
from rlhf_operator.common.intents import Event

from .views import Traffic


class GateState(StrEnum):
    """What the end of a step says."""

    ADVANCE = "Advance"
    WAIT = "Wait"
    PAUSE = "Pause"
    """Nobody can tell: a person decides."""
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict about the step under way: from the analysis, or from the hold alone where nothing is measured."""

    state: GateState
    reason: str = ""
    """Of common.reasons."""
    words: str = ""
    """What it waits for, or what failed, with figures."""
    metric: str = ""
    """The metric that decided, where one did."""
    wake_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """The pods of one revision."""

    replicas: int
    """As many as are asked for, unless an autoscaler owns the number."""
    autoscale: tuple[int, int] | None = None
    """Fewest and most pods that an autoscaler may ask for; None: no autoscaler, the number is ours."""
    idle_since: datetime | None = None
    """Since when it has no traffic and is not wanted; to be kept on its Deployment. None: it is wanted."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why the rollout stands still, to be recorded as the condition Paused."""

    reason: str
    """Of common.reasons: CommandPaused, Undecided, AnalysisPaused, MirrorPercentPruned, MirrorUnsupported."""
    message: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What happens now, for conditions and for people."""

    reason: str
    message: str
    stalled: bool = False
    """Whether only a person can change it."""
    busy: bool = False
    """Whether something is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything one look decides. What is written goes in this order: revision, route, pods, status.

    The route is written before pods are taken away: no field of `needed` counts on a route that is not stored yet, so
    the order only shortens the time to safety.
    """

    traffic: Traffic | None
    """The whole content of the route; None: there is none to write yet, or it is left alone."""
    needed: Mapping[str, Need] = field(default_factory=dict)
    """Every revision on record whose Deployment is to be there, with its pods."""
    removed: frozenset[str] = frozenset()
    """Revisions on record that go, with everything of theirs."""
    record: bool = False
    """Whether `wanted.rendered` is to be put on record. Nothing else happens with it before it is."""
    paused: Pause | None = None
    step: StepStatus | None = None
    candidate_since: datetime | None = None
    stable_since: datetime | None = None
    history: tuple[HistoryEntry, ...] = ()
    """As it is to be recorded, newest first."""
    consumed: CommandStatus | None = None
    """The last command that was looked at, carried out or not."""
    outlook: Outlook
    events: tuple[Event, ...] = ()
    wake_at: datetime | None = None

"""What one reconcile has decided, before it is put into a status and a plan of writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rlhf_operator.api.result import ArtifactRecord, TerminationMessage
from rlhf_operator.common.intents import Delete, Event, Manifest

from .checks import Check
from .ledger import Ledger
from .views import FrozenPlan


class Phase(StrEnum):
    """Where a job stands. Derived anew at every look and never read back."""

    PENDING = "Pending"
    STALLED = "Stalled"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    FINISHING = "Finishing"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    PUBLISHING = "Publishing"
    COMPLETE = "Complete"
    FAILED = "Failed"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return self in (Phase.COMPLETE, Phase.FAILED)


@dataclass(frozen=True, slots=True)
class Decision:
    """Phase, reason and words; the ledger as it is to be recorded; the writes; when to look again."""

    phase: Phase
    reason: str
    message: str
    ledger: Ledger
    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    delete: tuple[Delete, ...] = ()
    events: tuple[Event, ...] = ()
    """What conditions and attempts don't tell by themselves."""
    wake_at: datetime | None = None
    plan: FrozenPlan | None = None
    """The plan in force, when it is known."""
    references: Check | None = None
    """None: not looked at this time; what is recorded stands."""
    storage: Check | None = None
    verdict: TerminationMessage | None = None
    """Rank 0's word, in the pass that reads it."""
    artifact: ArtifactRecord | None = None
    """The publish pod's record, in the pass that reads it."""

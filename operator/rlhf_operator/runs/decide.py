"""One look at one run: whether the next step is an attempt, its end, or publishing. Pure: no IO, no clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rlhf_operator.common.intents import Delete
from rlhf_operator.common.reasons import Reason

from .decision import Decision, Phase
from .ledger import SUCCEEDED, ledger_of
from .publishing import publishing
from .references import check_references
from .running import delete, vanished, with_job
from .spec import RunSpec
from .starting import next_attempt
from .storage import check_storage
from .views import Run


def decide(observed: Run, spec: RunSpec, now: datetime) -> Decision:
    """Return what is to be done about a run that is not finished, and what was found out about its references."""
    decision = _decide(observed, spec, now)
    if observed.references is None or decision.references is not None:
        return decision
    return replace(
        decision,
        references=check_references(
            spec, observed.references, observed.defaults.allowed_hosts, frozen=observed.plan is not None
        ),
        storage=check_storage(observed.owner.name, spec, observed.references.claims, observed.claim),
    )


def _decide(observed: Run, spec: RunSpec, now: datetime) -> Decision:
    ledger = ledger_of(observed.status)
    if ledger.last is not None and ledger.last.class_ == SUCCEEDED:
        return publishing(observed, spec, ledger, now)
    job = observed.live
    if job is None:
        if ledger.open is not None:
            return vanished(observed, spec, ledger, now)
        return next_attempt(observed, spec, ledger, now)
    older = _older_jobs(observed)
    if older:
        # Two attempts must never run: whatever brought the older one back, it goes before anything else is done.
        words = f"{len(older)} Jobs of former attempts are still there"
        return Decision(Phase.RESTARTING, Reason.SUPERSEDED, words, ledger, delete=older, plan=observed.plan)
    return with_job(observed, spec, ledger, job, now)


def _older_jobs(observed: Run) -> tuple[Delete, ...]:
    return tuple(delete(observed, job, "Background") for job in observed.attempts[:-1] if not job.deleting)

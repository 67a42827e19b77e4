"""One look at one RLHFJob: what is decided, and the plan of writes it makes. Pure: no IO, no clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.conditions import cut, is_true, merge
from rlhf_operator.common.intents import Delete, Plan, WriteFailure
from rlhf_operator.common.reasons import Reason

from .conditions import problem_conditions
from .decision import Decision, Phase
from .events import transitions
from .ledger import SUCCEEDED, ledger_of
from .publishing import clean_up, publishing
from .references import check_references
from .running import delete, vanished, with_job
from .starting import next_attempt
from .status import job_status
from .storage import check_storage
from .views import Observed

REFUSED_POLL = timedelta(minutes=1)
"""What validates an object (a webhook, another version of the server) changes without anything of ours changing."""


def reconcile(observed: Observed, now: datetime) -> Plan:
    """Decide everything about one RLHFJob from one observation."""
    spec = observed.spec
    if spec is None:
        # What is over stays over, whichever version of the operator looks at it.
        return Plan() if finished(observed) else _unreadable(observed, now)
    if finished(observed):
        return _after_the_end(observed, spec, now)
    decision = decide(observed, spec, now)
    status = job_status(observed, spec, decision, now)
    return Plan(
        apply=decision.apply,
        create=decision.create,
        delete=decision.delete,
        status=status,
        events=(*decision.events, *transitions(observed.status, decision.ledger, status)),
        wake_at=decision.wake_at,
    )


def decide(observed: Observed, spec: RLHFJobSpec, now: datetime) -> Decision:
    """Return what is to be done about a job that is not finished, and what was found out about its references."""
    decision = _decide(observed, spec, now)
    if observed.references is None or decision.references is not None:
        return decision
    return replace(
        decision,
        references=check_references(spec, observed.references),
        storage=check_storage(observed.owner.name, spec, observed.references.claims, observed.claim),
    )


def _decide(observed: Observed, spec: RLHFJobSpec, now: datetime) -> Decision:
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


def finished(observed: Observed) -> bool:
    """Whether the job is Complete or Failed for good."""
    return any(is_true(observed.status.conditions, name) for name in ("Complete", "Failed"))


def failure_plan(observed: Observed, now: datetime, failure: WriteFailure) -> Plan:
    """Return the status that tells of a write the server refused."""
    what = f"{failure.action} {failure.resource.kind} {failure.name}"
    reason = Reason.NAME_TAKEN if failure.reason == Reason.NAME_TAKEN else Reason.WRITE_REFUSED
    if failure.reason == "Invalid" and failure.resource.kind == "Job":
        reason = Reason.TEMPLATE_INVALID
    words = f"the API server refused to {what} ({failure.reason}): {failure.message}"
    status = problem_status(observed, reason, words, now, permanent=not failure.retriable)
    # What is retriable comes back by the queue's own back-off.
    again = None if failure.retriable else now + REFUSED_POLL
    events = transitions(observed.status, ledger_of(observed.status), status)
    return Plan(status=status, events=events, wake_at=again)


def problem_status(
    observed: Observed, reason: Reason, message: str, now: datetime, *, permanent: bool
) -> dict[str, Any]:
    """Return the recorded status with a problem in its summary; everything else stands as it was."""
    wanted = problem_conditions(observed, reason, message, permanent=permanent)
    return {
        **observed.raw_status,
        "observedGeneration": observed.generation,
        "phase": (Phase.STALLED if permanent else Phase.PENDING).value,
        "message": cut(message),
        "conditions": merge(observed.status.conditions, wanted, observed.generation, now),
    }


def _unreadable(observed: Observed, now: datetime) -> Plan:
    words = (
        f"the spec can't be read by this version of the operator: {observed.spec_problem}. Upgrade the operator, or "
        "create an RLHFJob without this; pods that run are left alone"
    )
    status = problem_status(observed, Reason.INVALID_SPEC, words, now, permanent=True)
    return Plan(status=status, events=transitions(observed.status, ledger_of(observed.status), status))


def _older_jobs(observed: Observed) -> tuple[Delete, ...]:
    return tuple(delete(observed, job, "Background") for job in observed.attempts[:-1] if not job.deleting)


def _after_the_end(observed: Observed, spec: RLHFJobSpec, now: datetime) -> Plan:
    plan = clean_up(observed, spec, now)
    if observed.status.observed_generation == observed.generation:
        return plan
    status = {**observed.raw_status, "observedGeneration": observed.generation}
    return Plan(delete=plan.delete, status=status, wake_at=plan.wake_at)

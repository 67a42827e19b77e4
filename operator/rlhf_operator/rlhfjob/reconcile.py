"""One look at one RLHFJob: what is decided, and the plan of writes it makes. Pure: no IO, no clock."""

from __future__ import annotations

from datetime import datetime

from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.intents import Plan, WriteFailure
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.decide import decide
from rlhf_operator.runs.ledger import ledger_of
from rlhf_operator.runs.refused import REFUSED_POLL, problem_status, refused

from .events import transitions
from .finished import clean_up, finished
from .run import run_spec
from .status import job_status
from .views import Observed


def reconcile(observed: Observed, now: datetime) -> Plan:
    """Decide everything about one RLHFJob from one observation."""
    spec = observed.spec
    if spec is None:
        # What is over stays over, whichever version of the operator looks at it.
        return Plan() if finished(observed) else _unreadable(observed, now)
    if finished(observed):
        return _after_the_end(observed, spec, now)
    decision = decide(observed, run_spec(observed.owner, spec), now)
    status = job_status(observed, spec, decision, now)
    return Plan(
        apply=decision.apply,
        create=decision.create,
        delete=decision.delete,
        status=status,
        events=(*decision.events, *transitions(observed.status, decision.ledger, status)),
        wake_at=decision.wake_at,
    )


def failure_plan(observed: Observed, now: datetime, failure: WriteFailure) -> Plan:
    """Return the status that tells of a write the server refused."""
    reason, words = refused(failure)
    status = problem_status(observed, reason, words, now, permanent=not failure.retriable, serves=False)
    # What is retriable comes back by the queue's own back-off.
    again = None if failure.retriable else now + REFUSED_POLL
    events = transitions(observed.status, ledger_of(observed.status), status)
    return Plan(status=status, events=events, wake_at=again)


def _unreadable(observed: Observed, now: datetime) -> Plan:
    words = (
        f"the spec can't be read by this version of the operator: {observed.spec_problem}. Upgrade the operator, or "
        "create an RLHFJob without this; pods that run are left alone"
    )
    status = problem_status(observed, Reason.INVALID_SPEC, words, now, permanent=True, serves=False)
    return Plan(status=status, events=transitions(observed.status, ledger_of(observed.status), status))


def _after_the_end(observed: Observed, spec: RLHFJobSpec, now: datetime) -> Plan:
    plan = clean_up(observed, spec, now)
    if observed.status.observed_generation == observed.generation:
        return plan
    status = {**observed.raw_status, "observedGeneration": observed.generation}
    return Plan(delete=plan.delete, status=status, wake_at=plan.wake_at)

"""One look at one RewardModel: what is decided, and the plan of writes it makes. Pure: no IO, no clock."""

from __future__ import annotations

from datetime import datetime

from rlhf_operator.common.intents import Plan, WriteFailure
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.refused import REFUSED_POLL, problem_status, refused

from .events import transitions
from .making import make
from .serving import serve
from .status import reward_model_status
from .versions import choose
from .views import Observed


def reconcile(observed: Observed, now: datetime) -> Plan:
    """Decide everything about one RewardModel from one observation."""
    spec = observed.spec
    if spec is None:
        return _unreadable(observed, now)
    making = make(observed, spec, now)
    choice = choose(making.versions, spec.pinned_version)
    serving = serve(observed, spec, making.versions, choice, now)
    status = reward_model_status(observed, spec, making, choice, serving, now)
    decision = making.decision
    ours = (decision.apply, decision.create, decision.delete) if decision is not None else ((), (), ())
    wakes = [serving.wake_at, decision.wake_at if decision is not None else None]
    return Plan(
        apply=(*ours[0], *serving.apply),
        create=ours[1],
        delete=(*ours[2], *making.delete, *serving.delete),
        status=status,
        events=(*(decision.events if decision is not None else ()), *transitions(observed.status, decision, status)),
        wake_at=min((each for each in wakes if each is not None), default=None),
    )


def failure_plan(observed: Observed, now: datetime, failure: WriteFailure) -> Plan:
    """Return the status that tells of a write the server refused."""
    reason, words = refused(failure)
    status = problem_status(observed, reason, words, now, permanent=not failure.retriable, serves=True)
    # What is retriable comes back by the queue's own back-off.
    again = None if failure.retriable else now + REFUSED_POLL
    return Plan(status=status, events=transitions(observed.status, None, status), wake_at=again)


def _unreadable(observed: Observed, now: datetime) -> Plan:
    words = (
        f"the spec can't be read by this version of the operator: {observed.spec_problem}. Upgrade the operator, or "
        "change the spec; what serves is left alone"
    )
    status = problem_status(observed, Reason.INVALID_SPEC, words, now, permanent=True, serves=True)
    return Plan(status=status, events=transitions(observed.status, None, status))

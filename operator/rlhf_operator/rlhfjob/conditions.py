"""Which conditions a job has, and how each follows from the decision. The mechanics are in common/conditions.py."""

from __future__ import annotations

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.conditions import FALSE, TRUE, UNKNOWN, Condition, find
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.checks import Check
from rlhf_operator.runs.decision import Decision, Phase

from .plan import uses_training_reward
from .views import Observed

PROGRESSING = frozenset(
    {
        Phase.PENDING,
        Phase.QUEUED,
        Phase.STARTING,
        Phase.RUNNING,
        Phase.RESTARTING,
        Phase.FINISHING,
        Phase.SUSPENDING,
        Phase.PUBLISHING,
    }
)
"""Phases in which something happens by itself; in the others it is the user's turn, or over."""


def wanted_conditions(
    observed: Observed, spec: RLHFJobSpec, decision: Decision, status: RLHFJobStatus
) -> list[Condition]:
    """Return every condition of a job, in the order in which they come to be."""
    return [
        _references(_check("ReferencesResolved", decision.references, observed), spec),
        _check("StorageReady", decision.storage, observed),
        _queued(spec, decision),
        _running(decision),
        _suspended(decision),
        _evaluated(spec, status),
        _published(decision, status),
        _terminal(Phase.COMPLETE, decision),
        _terminal(Phase.FAILED, decision),
        *_summary(decision),
    ]


def _check(condition: str, check: Check | None, observed: Observed) -> Condition:
    if check is not None:
        return Condition(condition, check.status, check.reason, check.message)
    recorded = find(observed.status.conditions, condition)
    if recorded is not None:
        # Looked at before the attempt began; while it runs nothing is read again.
        return Condition(condition, recorded.status, recorded.reason, recorded.message)
    return Condition(condition, UNKNOWN, Reason.NOT_CHECKED, "not looked at yet")


def _references(resolved: Condition, spec: RLHFJobSpec) -> Condition:
    """The inputs, and what a person should know of the plan that they resolve to."""
    warnings = spec.grpo.warnings() if spec.grpo is not None else []
    if resolved.status != TRUE or not warnings:
        return resolved
    return Condition(resolved.type, TRUE, Reason.PLAN_WARNING, "; ".join(warnings))


def _queued(spec: RLHFJobSpec, decision: Decision) -> Condition:
    if decision.phase is Phase.QUEUED:
        return Condition("Queued", TRUE, decision.reason, decision.message)
    if spec.compute.queue_name is not None and decision.phase in (Phase.STARTING, Phase.RUNNING):
        return Condition("Queued", FALSE, Reason.ADMITTED, f"admitted by queue {spec.compute.queue_name}")
    return Condition("Queued", FALSE, Reason.NOT_QUEUED)


def _running(decision: Decision) -> Condition:
    if decision.phase is Phase.RUNNING:
        return Condition("Running", TRUE, decision.reason, decision.message)
    if decision.phase in (Phase.STARTING, Phase.RESTARTING):
        return Condition("Running", FALSE, decision.reason, decision.message)
    return Condition("Running", FALSE, Reason.NOT_RUNNING)


def _suspended(decision: Decision) -> Condition:
    if decision.phase is Phase.SUSPENDED:
        return Condition("Suspended", TRUE, decision.reason, decision.message)
    if decision.phase is Phase.SUSPENDING:
        return Condition("Suspended", FALSE, Reason.SUSPENDING, decision.message)
    return Condition("Suspended", FALSE, Reason.NOT_SUSPENDED)


def _evaluated(spec: RLHFJobSpec, status: RLHFJobStatus) -> Condition:
    if spec.evaluation is None:
        return Condition("Evaluated", FALSE, Reason.NOT_EVALUATED, "the spec has no evaluation block")
    if status.evaluation is None or status.evaluation.gate is None:
        return Condition("Evaluated", FALSE, Reason.EVALUATION_PENDING)
    words = f"gate {status.evaluation.gate}: {status.evaluation.message or 'no words were given'}"
    if status.evaluation.gate == "Failed":
        return Condition("Evaluated", TRUE, Reason.GATE_FAILED, words)
    if uses_training_reward(spec):
        names = ", ".join(spec.evaluation.scorers)
        words = (
            f"{words}. Every scorer of the gate was optimised ({names}), so it proves little: name one that was not, "
            "or set evaluation.allowTrainingScorer"
        )
        return Condition("Evaluated", TRUE, Reason.GATE_USES_TRAINING_REWARD, words)
    return Condition("Evaluated", TRUE, Reason.EVALUATED, words)


def _published(decision: Decision, status: RLHFJobStatus) -> Condition:
    if status.artifact is not None and status.artifact.gate == "Failed":
        words = f"the gate failed, so nothing is published: the trained policy stays at {status.artifact.ref}"
        return Condition("Published", FALSE, Reason.GATE_FAILED, words)
    if status.artifact is not None:
        return Condition("Published", TRUE, Reason.PUBLISHED, f"{status.artifact.ref} {status.artifact.digest}")
    if decision.phase is Phase.PUBLISHING:
        return Condition("Published", FALSE, Reason.PUBLISHING, decision.message)
    return Condition("Published", FALSE, Reason.NOT_FINISHED)


def _terminal(phase: Phase, decision: Decision) -> Condition:
    if decision.phase is phase:
        return Condition(phase.value, TRUE, decision.reason, decision.message)
    other = decision.reason if decision.phase.terminal else Reason.NOT_FINISHED
    return Condition(phase.value, FALSE, other)


def _summary(decision: Decision) -> list[Condition]:
    """Return Ready, Reconciling and Stalled as kstatus reads them."""
    reason, message = decision.reason, decision.message
    done = decision.phase is Phase.COMPLETE
    progressing = decision.phase in PROGRESSING
    # Without the budget nothing goes on until a person acts; with `suspend` a person has.
    stalled = decision.phase in (Phase.STALLED, Phase.FAILED) or reason == Reason.BUDGET_EXCEEDED
    return [
        Condition("Ready", TRUE if done else FALSE, reason, message),
        Condition("Reconciling", TRUE if progressing else FALSE, reason, message if progressing else ""),
        Condition("Stalled", TRUE if stalled else FALSE, reason, message if stalled else ""),
    ]

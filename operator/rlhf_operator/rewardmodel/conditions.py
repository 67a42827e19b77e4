"""Which conditions a RewardModel has, and how each follows from what was decided. Pure."""

from __future__ import annotations

from rlhf_operator.api.rewardmodel import RewardModelSpec
from rlhf_operator.common.conditions import FALSE, TRUE, Condition
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.decision import Decision, Phase
from rlhf_operator.runs.ledger import SUCCEEDED

from .making import Making
from .serving import Serving
from .versions import Choice
from .views import Observed

AT_REST = (Phase.SUSPENDED, Phase.STALLED, Phase.FAILED, Phase.COMPLETE)
"""Phases of a run in which nothing happens by itself."""

STUCK = (Reason.VERSION_NOT_READY, Reason.TEMPLATE_INVALID)
"""Reasons of Serving that a person has to look into."""


def wanted_conditions(
    observed: Observed, spec: RewardModelSpec, making: Making, choice: Choice, serving: Serving
) -> list[Condition]:
    """Return every condition, in the order in which they come to be."""
    trained, evaluated = _trained(observed, spec, making), _evaluated(spec, making)
    return [trained, evaluated, serving.condition, *_summary(making, choice, serving, trained, evaluated)]


def _trained(observed: Observed, spec: RewardModelSpec, making: Making) -> Condition:
    if making.version is not None:
        reason = Reason.TRAINED if spec.source.train is not None else Reason.TAKEN
        how = "was trained" if spec.source.train is not None else "was taken as it is"
        return Condition("Trained", TRUE, reason, f"version {making.version.digest} {how}")
    decision, run = making.decision, observed.status.run
    if decision is None:
        reason_, message = (run.failed or Reason.NOT_TRAINED, run.message or "") if run is not None else ("", "")
        return Condition("Trained", FALSE, reason_ or Reason.NOT_TRAINED, message)
    last = decision.ledger.last
    if last is not None and last.class_ == SUCCEEDED:
        return Condition("Trained", TRUE, Reason.TRAINED, decision.message)
    return Condition("Trained", FALSE, decision.reason or Reason.NOT_TRAINED, decision.message)


def _evaluated(spec: RewardModelSpec, making: Making) -> Condition:
    version = making.version
    if version is None:
        return Condition("Evaluated", FALSE, Reason.EVALUATION_PENDING)
    if version.gate == "Failed":
        words = f"version {version.digest} failed its gate: {version.message or 'no figure was given'}"
        return Condition("Evaluated", FALSE, Reason.GATE_FAILED, words)
    if version.gate == "NotEvaluated":
        words = "the spec has no evaluation block" if spec.evaluation is None else "no limit is set in evaluation"
        return Condition("Evaluated", FALSE, Reason.NOT_EVALUATED, f"{words}: every version is used")
    words = f"version {version.digest} passed its gate"
    return Condition("Evaluated", TRUE, Reason.EVALUATED, f"{words}: {version.message}" if version.message else words)


def _summary(
    making: Making, choice: Choice, serving: Serving, trained: Condition, evaluated: Condition
) -> list[Condition]:
    """Return Ready (can be used), Reconciling and Stalled as kstatus reads them."""
    stalled = _stalled(making, choice, serving, trained, evaluated)
    progressing = _progressing(making.decision, serving, choice)
    if stalled is not None:
        progressing = None
    return [
        _ready(choice, serving, stalled or progressing),
        progressing or Condition("Reconciling", FALSE, _reason(stalled)),
        stalled or Condition("Stalled", FALSE, _reason(progressing)),
    ]


def _reason(condition: Condition | None) -> str:
    return condition.reason if condition is not None else Reason.READY


def _ready(choice: Choice, serving: Serving, why_not: Condition | None) -> Condition:
    if choice.version is None:
        reason, message = (why_not.reason, why_not.message) if why_not is not None else (Reason.NO_VERSION, "")
        return Condition("Ready", FALSE, reason, message or "no version has passed its gate yet")
    if not serving.works:
        return Condition("Ready", FALSE, serving.condition.reason, serving.condition.message)
    words = f"version {serving.served or choice.version.digest} can be used"
    # A new version that is made, or failed, takes nothing from the one in use.
    beside = f"; {why_not.message}" if why_not is not None and why_not.message else ""
    return Condition("Ready", TRUE, Reason.READY, words + beside)


def _stalled(
    making: Making, choice: Choice, serving: Serving, trained: Condition, evaluated: Condition
) -> Condition | None:
    """Return what only a person can change: the run's failure first, then the gate's, then the pods'."""
    decision = making.decision
    if making.given_up or (decision is not None and decision.phase is Phase.STALLED):
        return Condition("Stalled", TRUE, trained.reason, trained.message)
    if making.failed:
        return Condition("Stalled", TRUE, evaluated.reason, evaluated.message)
    if choice.reason == Reason.PINNED_VERSION_UNKNOWN:
        return Condition("Stalled", TRUE, choice.reason, choice.message)
    if serving.condition.reason in STUCK:
        return Condition("Stalled", TRUE, serving.condition.reason, serving.condition.message)
    return None


def _progressing(decision: Decision | None, serving: Serving, choice: Choice) -> Condition | None:
    if decision is not None and decision.phase not in AT_REST:
        return Condition("Reconciling", TRUE, decision.reason or decision.phase.value, decision.message)
    if serving.condition.reason in (Reason.STARTING, Reason.SWITCHING):
        return Condition("Reconciling", TRUE, serving.condition.reason, serving.condition.message)
    if decision is not None and decision.phase is Phase.SUSPENDED and choice.version is None:
        return Condition("Reconciling", FALSE, decision.reason, decision.message)
    return None

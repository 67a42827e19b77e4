"""What was measured, for status: which figures of the evaluation pass. The verdict is the publish pod's. Pure."""

from __future__ import annotations

from rlhf_operator.api.jobstatus import ComparisonStatus, EvaluationStatus
from rlhf_operator.api.result import Comparison, TerminationMessage
from rlhf_operator.api.rlhfjob import RLHFJobSpec

COMPARISONS_KEPT = 48
"""16 scorers over 3 baselines: more can't be asked for."""


def passes(comparison: Comparison | ComparisonStatus, spec: RLHFJobSpec) -> bool:
    """Whether one comparison passes: the lower bound of its interval reaches minWinRate, its gain minImprovement."""
    evaluation = spec.evaluation
    if evaluation is None:
        return True
    if evaluation.min_win_rate is not None and (comparison.lower or 0.0) < evaluation.min_win_rate:
        return False
    if evaluation.min_improvement is not None and comparison.baseline == "WarmStart":
        return (comparison.mean or 0.0) - (comparison.baseline_mean or 0.0) >= evaluation.min_improvement
    return True


def evaluation_status(verdict: TerminationMessage, spec: RLHFJobSpec) -> EvaluationStatus | None:
    """Return what the training pod measured; None without an evaluation block."""
    if spec.evaluation is None:
        return None
    comparisons = [
        ComparisonStatus.model_validate(each.model_dump() | {"passed": passes(each, spec)})
        for each in verdict.evaluation[:COMPARISONS_KEPT]
    ]
    return EvaluationStatus(step=verdict.step, comparisons=comparisons)

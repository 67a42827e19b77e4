"""The gate in words: which figures of the evaluation passed. The verdict itself is the publish pod's. Pure."""

from __future__ import annotations

from collections.abc import Sequence

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


def failed_figures(comparisons: Sequence[ComparisonStatus], spec: RLHFJobSpec) -> list[str]:
    """Return each figure that missed its bound, with the bound."""
    evaluation = spec.evaluation
    if evaluation is None:
        return []
    words: list[str] = []
    for each in comparisons:
        over = f"{each.scorer} over {each.baseline}"
        lower = each.lower or 0.0
        if evaluation.min_win_rate is not None and lower < evaluation.min_win_rate:
            interval = f"[{lower:.3f}, {each.upper or 0.0:.3f}]"
            words.append(
                f"{over}: win rate {each.win_rate or 0.0:.3f} {interval}, minWinRate {evaluation.min_win_rate}"
            )
        gain = (each.mean or 0.0) - (each.baseline_mean or 0.0)
        if (
            evaluation.min_improvement is not None
            and each.baseline == "WarmStart"
            and gain < evaluation.min_improvement
        ):
            words.append(f"{over}: improvement {gain:.3f}, minImprovement {evaluation.min_improvement}")
    return words

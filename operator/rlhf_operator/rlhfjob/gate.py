"""What was measured, for status: which figures of the evaluation pass. The verdict is the publish pod's. Pure."""

from __future__ import annotations

from rlhf_operator.api.gate import improvement_holds, slice_holds, suite_holds, win_rate_holds
from rlhf_operator.api.jobstatus import ComparisonStatus, EvaluationStatus, SliceStatus, SuiteStatus
from rlhf_operator.api.result import Comparison, SliceScore, SuiteScore, TerminationMessage
from rlhf_operator.api.rlhfjob import RLHFJobSpec

COMPARISONS_KEPT = 48
"""16 scorers over 3 baselines: more can't be asked for."""
SUITES_KEPT, SLICES_KEPT = 16, 8


def passes(comparison: Comparison, spec: RLHFJobSpec) -> bool:
    """Whether one comparison holds every limit that is set for it."""
    evaluation = spec.evaluation
    return evaluation is None or (
        win_rate_holds(comparison, evaluation.min_win_rate)
        and improvement_holds(comparison, evaluation.min_improvement)
    )


def evaluation_status(verdict: TerminationMessage, spec: RLHFJobSpec) -> EvaluationStatus | None:
    """Return what the training pod measured; None without an evaluation block."""
    if spec.evaluation is None:
        return None
    comparisons = [
        ComparisonStatus.model_validate(each.model_dump() | {"passed": passes(each, spec)})
        for each in verdict.evaluation[:COMPARISONS_KEPT]
    ]
    return EvaluationStatus(
        step=verdict.step,
        comparisons=comparisons,
        suites=[_suite(each, spec) for each in verdict.suites[:SUITES_KEPT]],
        slices=[_slice(each, spec) for each in verdict.slices[:SLICES_KEPT]],
        message=_left_out(verdict, spec),
    )


def _suite(score: SuiteScore, spec: RLHFJobSpec) -> SuiteStatus:
    suites = spec.evaluation.suites if spec.evaluation is not None else []
    passed = next((suite_holds(score, suite.max_drop) for suite in suites if suite.name == score.suite), None)
    return SuiteStatus(name=score.suite, score=score.mean, baseline_score=score.baseline_mean, passed=passed)


def _slice(score: SliceScore, spec: RLHFJobSpec) -> SliceStatus:
    limits = spec.evaluation.slices if spec.evaluation is not None else None
    return SliceStatus(
        scorer=score.scorer,
        column=score.column,
        value=score.value,
        samples=score.samples,
        drop=score.drop,
        passed=slice_holds(score, limits) if limits is not None else None,
    )


def _left_out(verdict: TerminationMessage, spec: RLHFJobSpec) -> str | None:
    """Say how many figures did not reach us: a pod's last words are bounded, the files in its workspace are not."""
    if spec.evaluation is None:
        return None
    asked = min(len(spec.evaluation.scorers) * len(spec.evaluation.baselines), COMPARISONS_KEPT)
    suites = len(spec.evaluation.suites)
    missing = [
        f"{wanted - told} of {wanted} {what}"
        for what, wanted, told in (
            ("comparisons", asked, len(verdict.evaluation)),
            ("suites", suites, len(verdict.suites)),
        )
        if told < wanted
    ]
    if not missing:
        return None
    return f"{' and '.join(missing)} are not listed here: result.json in the workspace has what was measured"

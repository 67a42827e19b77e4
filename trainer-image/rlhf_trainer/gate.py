"""The gate: whether a trained policy or a reward model may be published. Pure; figures come from evaluate.py."""

from dataclasses import dataclass
from enum import StrEnum

from rlhf_operator.api.evaluation import Slices
from rlhf_operator.api.gate import gain, improvement_holds, slice_holds, suite_holds, win_rate_holds
from rlhf_operator.api.plan import PlanEvaluation, PlanSuite
from rlhf_operator.api.result import Comparison, SliceScore, SuiteScore
from rlhf_operator.api.rewardgate import RewardFigures, RewardGate, missed

from .evaluate import WARM_START

_SLICES_NAMED = 3


class Gate(StrEnum):
    """The verdict as status.artifact.gate has it."""

    PASSED = "Passed"
    FAILED = "Failed"
    NOT_EVALUATED = "NotEvaluated"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate and, in words, every figure that missed its limit."""

    gate: Gate
    message: str


def verdict(
    evaluation: PlanEvaluation | None,
    comparisons: list[Comparison],
    suites: list[SuiteScore] | None = None,
    slices: list[SliceScore] | None = None,
) -> Verdict:
    """Hold the figures against the limits. A figure that is not there has missed: no data is not success.

    slices: all there are, the one that fell furthest first.
    """
    if evaluation is None:
        return Verdict(Gate.NOT_EVALUATED, "the job has no evaluation")
    limits: dict[str, float | None] = {
        "minWinRate": evaluation.min_win_rate,
        "minImprovement": evaluation.min_improvement,
        **{f"suites[{suite.name}].maxDrop": suite.max_drop for suite in evaluation.suites or []},
        "slices.maxDrop": evaluation.slices.max_drop if evaluation.slices is not None else None,
    }
    asked = {name: limit for name, limit in limits.items() if limit is not None}
    if not asked:
        return Verdict(Gate.NOT_EVALUATED, "the evaluation sets no limit (minWinRate, minImprovement, suites, slices)")
    if not evaluation.scorers and not all(name.startswith("suites") for name in asked):
        return Verdict(Gate.FAILED, "the evaluation sets limits but names no scorers")
    known = {(comparison.scorer, comparison.baseline): comparison for comparison in comparisons}
    missed = []
    if evaluation.min_win_rate is not None:
        for scorer in evaluation.scorers:
            for baseline in evaluation.baselines:
                missed += _win_rate(known.get((scorer, baseline)), scorer, baseline, evaluation.min_win_rate)
    if evaluation.min_improvement is not None:
        for scorer in evaluation.scorers:
            missed += _improvement(known.get((scorer, WARM_START)), scorer, evaluation.min_improvement)
    by_suite = {score.suite: score for score in suites or []}
    for suite in evaluation.suites or []:
        missed += _suite(by_suite.get(suite.name), suite)
    if evaluation.slices is not None:
        missed += _slices(slices or [], evaluation.slices)
    if missed:
        return Verdict(Gate.FAILED, "; ".join(missed))
    held = " and ".join(f"{name} {limit:g}" for name, limit in asked.items())
    judges = dict.fromkeys([*evaluation.scorers, *(suite.scorer for suite in evaluation.suites or [])])
    return Verdict(Gate.PASSED, f"{held} held by {', '.join(judges)}")


def reward_verdict(limits: RewardGate | None, figures: list[RewardFigures]) -> Verdict:
    """Hold a reward model's figures against the limits; each that missed is named with its figure."""
    if limits is None or not limits.limits:
        return Verdict(Gate.NOT_EVALUATED, "the RewardModel's evaluation sets no limit")
    if missing := missed(limits, figures):
        return Verdict(Gate.FAILED, "; ".join(missing))
    held = ", ".join(name if name == "mustPrefer" else f"{name} {limit:g}" for name, limit in limits.limits.items())
    return Verdict(Gate.PASSED, f"{held} held")


def _win_rate(comparison: Comparison | None, scorer: str, baseline: str, limit: float) -> list[str]:
    if comparison is None:
        return [f"{scorer} over {baseline}: not measured"]
    if win_rate_holds(comparison, limit):
        return []
    return [
        f"{scorer} over {baseline}: win rate {comparison.win_rate:.3f}, lower bound {comparison.lower:.3f} "
        f"< minWinRate {limit:g} ({comparison.prompts} prompts)"
    ]


def _improvement(comparison: Comparison | None, scorer: str, limit: float) -> list[str]:
    if comparison is None:
        return [f"{scorer} over {WARM_START}: not measured"]
    if improvement_holds(comparison, limit):
        return []
    spread = ""
    if comparison.gain_lower is not None and comparison.gain_upper is not None:
        spread = f" (95 % interval {comparison.gain_lower:.4f} to {comparison.gain_upper:.4f})"
    return [f"{scorer} over {WARM_START}: mean score gained {gain(comparison):.4f}{spread} < minImprovement {limit:g}"]


def _suite(score: SuiteScore | None, suite: PlanSuite) -> list[str]:
    if score is None:
        return [f"suite {suite.name}: not measured"]
    if suite_holds(score, suite.max_drop):
        return []
    return [
        f"suite {suite.name}: mean score of {score.scorer} fell by {score.drop:.4f}, from {score.baseline_mean:.4f} to "
        f"{score.mean:.4f} > maxDrop {suite.max_drop:g} ({score.rows} tasks)"
    ]


def _slices(scores: list[SliceScore], limits: Slices) -> list[str]:
    """The slices that fell too far, the worst first; their number is bounded, for a column may have many values."""
    if not scores:
        return ["slices: not measured"]
    fell = [each for each in scores if not slice_holds(each, limits)]
    words = [
        f"slice {each.column}={each.value}: mean score of {each.scorer} fell by {each.drop:.4f} > slices.maxDrop "
        f"{limits.max_drop:g} ({each.samples} prompts){', the worst' if at == 0 else ''}"
        for at, each in enumerate(fell[:_SLICES_NAMED])
    ]
    return [*words, f"and {len(fell) - _SLICES_NAMED} more slices"] if len(fell) > _SLICES_NAMED else words

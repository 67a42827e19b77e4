"""The gate: whether a trained policy or a reward model may be published. Pure; figures come from evaluate.py."""

from dataclasses import dataclass
from enum import StrEnum

from rlhf_operator.api.gate import gain, improvement_holds, win_rate_holds
from rlhf_operator.api.plan import PlanEvaluation
from rlhf_operator.api.result import Comparison
from rlhf_operator.api.rewardgate import RewardFigures, RewardGate, missed

from .evaluate import WARM_START


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


def verdict(evaluation: PlanEvaluation | None, comparisons: list[Comparison]) -> Verdict:
    """Hold the figures against the limits. A figure that is not there has missed: no data is not success."""
    if evaluation is None:
        return Verdict(Gate.NOT_EVALUATED, "the job has no evaluation")
    if evaluation.min_win_rate is None and evaluation.min_improvement is None:
        return Verdict(Gate.NOT_EVALUATED, "the evaluation sets no limit (minWinRate, minImprovement)")
    if not evaluation.scorers:
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
    if missed:
        return Verdict(Gate.FAILED, "; ".join(missed))
    limits = {"minWinRate": evaluation.min_win_rate, "minImprovement": evaluation.min_improvement}
    held = " and ".join(f"{name} {limit:g}" for name, limit in limits.items() if limit is not None)
    return Verdict(Gate.PASSED, f"{held} held by {', '.join(evaluation.scorers)}")


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
    return [f"{scorer} over {WARM_START}: mean score gained {gain(comparison):.4f} < minImprovement {limit:g}"]

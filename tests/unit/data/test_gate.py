from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.plan import PlanEvaluation
from rlhf_operator.api.result import Comparison
from rlhf_trainer.gate import Gate, verdict
from smalldata import evaluation


def plan(**more: Any) -> PlanEvaluation:
    return PlanEvaluation.model_validate(evaluation(Path("/x")) | {"scorers": ["gold"], **more})


def compared(scorer: str = "gold", baseline: str = "Base", **more: float) -> Comparison:
    figures = {"win_rate": 0.6, "lower": 0.56, "upper": 0.64, "mean": 1.0, "baseline_mean": 0.5, "prompts": 100}
    return Comparison.model_validate({"scorer": scorer, "baseline": baseline, **figures, **more})


BOTH = ["Base", "WarmStart"]


@pytest.mark.parametrize(
    ("limits", "comparisons", "gate", "words"),
    [
        ({}, [compared()], Gate.NOT_EVALUATED, "sets no limit"),
        ({"minWinRate": 0.55}, [compared()], Gate.PASSED, "minWinRate 0.55 held by gold"),
        ({"minWinRate": 0.56}, [compared()], Gate.PASSED, ""),
        (
            {"minWinRate": 0.57},
            [compared()],
            Gate.FAILED,
            "gold over Base: win rate 0.600, lower bound 0.560 < minWinRate 0.57 (100 prompts)",
        ),
        ({"minWinRate": 0.55}, [], Gate.FAILED, "gold over Base: not measured"),
        ({"minWinRate": 0.55}, [compared("other")], Gate.FAILED, "gold over Base: not measured"),
        ({"minWinRate": 0.55, "baselines": BOTH}, [compared()], Gate.FAILED, "gold over WarmStart: not measured"),
        (
            {"minWinRate": 0.55, "baselines": BOTH, "scorers": ["gold", "b"]},
            [compared(s, b, lower=0.5) for s in ("gold", "b") for b in BOTH],
            Gate.FAILED,
            "gold over Base: win rate 0.600, lower bound 0.500 < minWinRate 0.55 (100 prompts); "
            "gold over WarmStart: win rate 0.600, lower bound 0.500 < minWinRate 0.55 (100 prompts); "
            "b over Base: win rate 0.600, lower bound 0.500 < minWinRate 0.55 (100 prompts); "
            "b over WarmStart: win rate 0.600, lower bound 0.500 < minWinRate 0.55 (100 prompts)",
        ),
        ({"minImprovement": 0.5, "baselines": BOTH}, [compared(baseline="WarmStart")], Gate.PASSED, ""),
        (
            {"minImprovement": 0.6, "baselines": BOTH},
            [compared(baseline="WarmStart")],
            Gate.FAILED,
            "gold over WarmStart: mean score gained 0.5000 < minImprovement 0.6",
        ),
        ({"minImprovement": 0.1}, [compared()], Gate.FAILED, "gold over WarmStart: not measured"),
        ({"minWinRate": 0.5, "scorers": []}, [], Gate.FAILED, "names no scorers"),
    ],
)
def test_the_gate_judges_the_lower_bound_and_names_what_missed(
    limits: dict[str, Any], comparisons: list[Comparison], gate: Gate, words: str
) -> None:
    judged = verdict(plan(**limits), comparisons)
    assert judged.gate is gate
    assert words in judged.message


def test_a_job_without_evaluation_is_not_evaluated() -> None:
    assert verdict(None, []).gate is Gate.NOT_EVALUATED

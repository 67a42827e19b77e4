from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.plan import PlanEvaluation
from rlhf_operator.api.result import Comparison, SliceScore, SuiteScore
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
        (
            {"minImprovement": 0.6, "baselines": BOTH},
            [compared(baseline="WarmStart", gain_lower=0.4, gain_upper=0.61)],
            Gate.FAILED,
            "mean score gained 0.5000 (95 % interval 0.4000 to 0.6100) < minImprovement 0.6",
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


SUITE = {"name": "sums", "dataset": evaluation(Path("/x"))["dataset"], "scorer": "correct", "maxDrop": 0.02}


def suite(mean: float) -> SuiteScore:
    return SuiteScore(suite="sums", scorer="correct", mean=mean, baseline_mean=0.5, rows=40)


@pytest.mark.parametrize(
    ("scores", "gate", "words"),
    [
        ([suite(0.48)], Gate.PASSED, "suites[sums].maxDrop 0.02 held by correct"),
        ([suite(0.9)], Gate.PASSED, ""),
        (
            [suite(0.25)],
            Gate.FAILED,
            "suite sums: mean score of correct fell by 0.2500, from 0.5000 to 0.2500 > maxDrop 0.02 (40 tasks)",
        ),
        ([], Gate.FAILED, "suite sums: not measured"),
    ],
)
def test_a_suite_may_not_fall_further_than_its_limit(scores: list[SuiteScore], gate: Gate, words: str) -> None:
    judged = verdict(plan(scorers=[], suites=[SUITE]), [], scores)
    assert judged.gate is gate
    assert words in judged.message


def slice_(value: str, drop: float, samples: int = 40) -> SliceScore:
    return SliceScore(scorer="gold", column="kind", value=value, mean=-drop, baseline_mean=0.0, samples=samples)


SLICES = {"columns": ["kind"], "minSamples": 30, "maxDrop": 0.05}


def test_the_worst_slice_is_named_first_and_their_number_is_bounded() -> None:
    fell = [slice_(f"v{at}", 0.9 - at / 10) for at in range(5)]
    judged = verdict(plan(slices=SLICES), [], None, [*fell, slice_("fine", 0.01)])
    assert judged.gate is Gate.FAILED
    words = judged.message.split("; ")
    assert words[0] == "slice kind=v0: mean score of gold fell by 0.9000 > slices.maxDrop 0.05 (40 prompts), the worst"
    assert words[1].startswith("slice kind=v1:")
    assert words[-1] == "and 2 more slices"
    assert "fine" not in judged.message


def test_slices_that_were_not_measured_have_not_held() -> None:
    assert verdict(plan(slices=SLICES), [], None, []).message == "slices: not measured"


@given(st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 60)), min_size=1, max_size=8))
def test_a_slice_below_min_samples_never_fails_a_gate(parts: list[tuple[float, int]]) -> None:
    scores = sorted(
        (slice_(str(at), drop, samples) for at, (drop, samples) in enumerate(parts)), key=lambda each: -each.drop
    )
    judged = verdict(plan(slices=SLICES), [], None, scores)
    fell = any(drop > 0.05 and samples >= 30 for drop, samples in parts)
    assert judged.gate is (Gate.FAILED if fell else Gate.PASSED)

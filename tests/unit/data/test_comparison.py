import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.comparison import Estimate, Side, bootstrap, interval, wilson
from rlhf_trainer.comparison import estimate as estimate_sides

score = st.none() | st.floats(-5, 5)
scores = st.lists(
    st.tuples(score, score, st.integers(0, 10), st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=40
)
Row = tuple[float | None, float | None, int, int, int]


def estimate(
    ours: list[float] | list[float | None], theirs: list[float] | list[float | None], prompts: list[str], seed: int
) -> Estimate | None:
    """Texts of one length."""
    return estimate_sides(Side(ours, [9] * len(ours)), Side(theirs, [9] * len(theirs)), prompts, seed)


@given(scores, st.integers(0, 2**31))
def test_a_win_rate_lies_in_its_interval_and_the_other_way_round_is_its_mirror(rows: list[Row], seed: int) -> None:
    prompts = [str(row[2]) for row in rows]
    ours = Side([row[0] for row in rows], [row[3] for row in rows])
    theirs = Side([row[1] for row in rows], [row[4] for row in rows])
    found = estimate_sides(ours, theirs, prompts, seed)
    scored = [row for row in rows if row[0] is not None and row[1] is not None]
    if not scored:
        assert found is None
        return
    assert found is not None
    assert 0.0 <= found.lower <= found.win_rate <= found.upper <= 1.0
    assert found.prompts == len({row[2] for row in scored})
    mirror = estimate_sides(theirs, ours, prompts, seed)
    assert mirror is not None
    assert mirror.win_rate == pytest.approx(1 - found.win_rate)
    assert mirror.lower == pytest.approx(1 - found.upper)
    assert mirror.length_controlled == pytest.approx(1 - found.length_controlled)
    if found.gain_lower is not None and found.gain_upper is not None:
        gain = found.mean - found.baseline_mean
        assert found.gain_lower - 1e-9 <= gain <= found.gain_upper + 1e-9
        assert mirror.gain_lower == pytest.approx(-found.gain_upper)


def test_a_judge_that_compares_decides_instead_of_the_scores() -> None:
    ours, theirs = Side([1.0, 1.0, 1.0, 1.0], [9] * 4), Side([0.0] * 4, [9] * 4)
    found = estimate_sides(ours, theirs, list("abcd"), 1, judged=[0.5, 0.0, 1.0, None])
    assert found is not None
    assert (found.win_rate, found.prompts, found.mean) == (0.5, 3, 1.0)


def test_a_gain_has_an_interval_unless_every_prompt_gained_the_same() -> None:
    same = estimate([2.0] * 5, [1.0] * 5, list("abcde"), 1)
    assert same is not None
    assert (same.gain_lower, same.gain_upper) == (None, None)
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(100):
        found = bootstrap(generator.normal(0.3, 1.0, 80), np.arange(80), 80, seed)
        assert found is not None
        covered += found[0] <= 0.3 <= found[1]
    assert covered >= 88


def test_ties_count_one_half_and_missing_scores_do_not_count() -> None:
    found = estimate([1.0, 2.0, 3.0, None, 9.0], [1.0, 1.0, 4.0, 0.0, None], list("abcde"), 1)
    assert found is not None
    assert (found.win_rate, found.prompts) == (0.5, 3)
    assert (found.mean, found.baseline_mean) == (2.0, 2.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    generator = random.Random(4)
    ours, theirs = ([generator.random() for _ in range(50)] for _ in range(2))
    prompts = [str(at) for at in range(50)]
    assert estimate(ours, theirs, prompts, 7) == estimate(ours, theirs, prompts, 7)


def test_three_wins_of_three_are_no_proof() -> None:
    found = estimate([1.0] * 3, [0.0] * 3, list("abc"), 1)
    assert found is not None
    assert found.win_rate == found.upper == 1.0
    assert found.lower < 0.5
    many = estimate([1.0] * 300, [0.0] * 300, [str(at) for at in range(300)], 1)
    assert many is not None
    assert many.lower > 0.98


def test_answers_to_one_prompt_are_not_independent() -> None:
    generator = random.Random(5)
    ours = [float(generator.random() < 0.6) for _ in range(20) for _ in range(1)]
    repeated = [score for score in ours for _ in range(10)]
    alone = estimate(ours, [0.5] * 20, [str(at) for at in range(20)], 3)
    tenfold = estimate(repeated, [0.5] * 200, [str(at // 10) for at in range(200)], 3)
    as_if_new = estimate(repeated, [0.5] * 200, [str(at) for at in range(200)], 3)
    assert alone is not None
    assert tenfold is not None
    assert as_if_new is not None
    assert tenfold.lower == pytest.approx(alone.lower)
    assert as_if_new.lower > tenfold.lower + 0.05


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(11)
    truth, covered, trials = 0.6, 0, 100
    for seed in range(trials):
        outcomes = (generator.random(100) < truth).astype(float)
        lower, upper = interval(outcomes, np.arange(100), 100, seed)
        covered += lower <= truth <= upper
    assert 0.89 <= covered / trials <= 0.99


def test_memory_stays_bounded_with_many_prompts() -> None:
    outcomes = np.random.default_rng(1).random(5_000)
    lower, upper = interval(outcomes, np.arange(5_000), 5_000, 1)
    assert lower < outcomes.mean() < upper
    assert upper - lower < 0.03


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_wilson_holds_the_rate(rate: float, count: int) -> None:
    lower, upper = wilson(rate, count)
    assert 0.0 <= lower <= rate + 1e-9
    assert rate - 1e-9 <= upper <= 1.0
    assert not math.isnan(lower)

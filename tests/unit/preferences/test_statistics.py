import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.comparison import wilson
from rlhf_trainer.preferences.statistics import (
    about_equal,
    accuracy_interval,
    histogram,
    matched_halves,
    outcomes,
    paired_difference,
    spearman,
)


def test_equal_scores_count_one_half() -> None:
    assert outcomes(np.array([2.0, -1.0, 0.0])).tolist() == [1.0, 0.0, 0.5]


def test_the_interval_is_wilsons_where_every_prompt_has_one_pair() -> None:
    found = np.array([1.0] * 60 + [0.0] * 40)
    assert accuracy_interval(found, np.arange(100), 0) == wilson(0.6, 100)


def test_pairs_of_one_prompt_widen_the_interval() -> None:
    """Ten prompts whose ten pairs all come out alike are ten observations, not a hundred."""
    found = np.repeat([1.0] * 6 + [0.0] * 4, 10)
    lower, upper = accuracy_interval(found, np.repeat(np.arange(10), 10), 0)
    narrow = wilson(0.6, 100)
    assert upper - lower > 2 * (narrow[1] - narrow[0])


def test_bootstrap_by_prompt_covers_the_truth() -> None:
    """Prompts of different difficulty with five pairs each: about 95 of 100 intervals hold the true rate."""
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        rates = generator.beta(4, 3, size=60)
        found = (generator.random((60, 5)) < rates[:, None]).astype(float).ravel()
        lower, upper = accuracy_interval(found, np.repeat(np.arange(60), 5), seed)
        hits += lower <= 4 / 7 <= upper
    assert hits >= 52


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60), st.integers(0, 100))
def test_an_interval_lies_in_0_1_and_holds_the_mean(values: list[float], seed: int) -> None:
    found = np.array(values)
    lower, upper = accuracy_interval(found, np.arange(len(values)) // 2, seed)
    assert 0.0 <= lower <= upper <= 1.0
    assert lower - 1e-9 <= found.mean() <= upper + 1e-9


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=40))
def test_a_paired_difference_turns_its_sign_with_its_sides(values: list[tuple[float, float]]) -> None:
    ours, theirs = (np.array(side) for side in zip(*values, strict=True))
    groups = np.arange(len(values))
    mean, lower, upper = paired_difference(ours, theirs, groups, 0)
    back, low, high = paired_difference(theirs, ours, groups, 0)
    assert (mean, lower, upper) == (pytest.approx(-back), pytest.approx(-high), pytest.approx(-low))
    assert -1 <= lower <= upper <= 1


def test_the_same_answers_do_not_differ_however_few_they_are() -> None:
    same = np.array([1.0, 0.0, 1.0])
    mean, lower, upper = paired_difference(same, same, np.arange(3), 0)
    assert mean == 0.0
    assert lower < 0.0 < upper


def test_equal_length_means_within_a_tenth_of_the_longer() -> None:
    assert about_equal(90, 100)
    assert about_equal(100, 90)
    assert not about_equal(89, 100)


def test_rank_correlation_is_not_made_up_where_nothing_varies() -> None:
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0])) == pytest.approx(0.5)
    assert spearman(np.ones(5), np.arange(5.0)) is None
    assert spearman(np.arange(2.0), np.arange(2.0)) is None


@given(st.lists(st.floats(0, 1), max_size=80))
def test_lone_responses_meet_at_most_once_and_the_better_stands_first(values: list[float]) -> None:
    pairs = matched_halves(np.array(values, dtype=float))
    used = [at for pair in pairs for at in pair]
    assert len(used) == len(set(used))
    assert all(values[high] > values[low] for high, low in pairs)


@given(st.integers(0, 40), st.integers(0, 40))
def test_of_two_classes_the_rarer_one_is_used_up(good: int, bad: int) -> None:
    assert len(matched_halves(np.array([1.0] * good + [0.0] * bad))) == min(good, bad)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_a_histogram_counts_everything(values: list[float]) -> None:
    edges, counts = histogram(np.array(values))
    assert sum(counts) == len(values)
    assert edges[0] == pytest.approx(-edges[-1])

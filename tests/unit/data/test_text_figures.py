"""Win rates at equal lengths, variety, and slices: pure figures of an evaluation."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.diversity import distinct_words
from rlhf_trainer.length_control import length_controlled
from rlhf_trainer.slices import slice_scores, values_of


def rate(outcomes: list[float], differences: list[float]) -> float:
    return length_controlled(np.array(outcomes), np.array(differences))


def test_a_win_that_length_alone_explains_is_no_win_at_equal_lengths() -> None:
    generator = np.random.default_rng(1)
    differences = generator.normal(40.0, 60.0, 2_000)
    wins = (generator.random(2_000) < 1 / (1 + np.exp(-3 * np.tanh(differences / 70)))).astype(float)
    assert wins.mean() > 0.65
    assert length_controlled(wins, differences) == pytest.approx(0.5, abs=0.04)


def test_a_better_policy_stays_better_at_equal_lengths() -> None:
    generator = np.random.default_rng(2)
    differences = generator.normal(0.0, 50.0, 4_000)
    truth = 1 / (1 + np.exp(-1.0 - 2 * np.tanh(differences / 50)))
    wins = (generator.random(4_000) < truth).astype(float)
    assert length_controlled(wins, differences) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.03)


@pytest.mark.parametrize(
    ("outcomes", "differences", "low", "high"),
    [
        ([1.0] * 50, [0.0] * 50, 0.95, 1.0),
        ([0.5] * 50, [10.0] * 50, 0.499, 0.501),
        # Always longer and always better: nobody can tell which of the two it was.
        ([1.0] * 50, [10.0] * 50, 0.6, 0.99),
        ([1.0, 0.0] * 25, [5.0, -5.0] * 25, 0.499, 0.501),
        ([1.0], [0.0], 0.5, 1.0),
    ],
)
def test_extreme_tables_have_a_finite_answer(
    outcomes: list[float], differences: list[float], low: float, high: float
) -> None:
    assert low <= rate(outcomes, differences) <= high


rows = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-10_000, 10_000)), min_size=1, max_size=60)


@given(rows)
def test_both_ways_round_add_up_to_one(found: list[tuple[float, int]]) -> None:
    outcomes, differences = [row[0] for row in found], [float(row[1]) for row in found]
    forth = rate(outcomes, differences)
    back = rate([1 - each for each in outcomes], [-each for each in differences])
    assert 0.0 < forth < 1.0
    assert forth + back == pytest.approx(1.0, abs=1e-6)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "dd"]), max_size=6), max_size=6))
def test_variety_is_the_share_of_pairs_that_a_set_keeps(texts: list[list[str]]) -> None:
    pairs = [pair for words in texts for pair in pairwise(words)]
    expected = len(set(pairs)) / len(pairs) if pairs else 0.0
    assert distinct_words(" ".join(words) for words in texts) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (["One two, one TWO"], 2 / 3),
        (["你好你好"], 2 / 3),
        (["word", ""], 0.0),
        ([], 0.0),
        (["a b", "a b"], 0.5),
    ],
)
def test_words_are_told_apart_in_any_script(texts: list[str], share: float) -> None:
    assert distinct_words(texts) == pytest.approx(share)


def test_a_slice_is_scored_over_rows_that_both_sides_have_a_score_for() -> None:
    kinds = [{"kind": "a"}, {"kind": "a"}, {"kind": "b", "tone": "x"}, {"kind": "b"}, {}]
    found = slice_scores("gold", kinds, [1.0, None, 0.0, 0.25, 9.0], [0.5, 0.5, 1.0, 0.25, 0.0])
    assert [(each.column, each.value, each.samples) for each in found] == [
        ("tone", "x", 1),
        ("kind", "b", 2),
        ("kind", "a", 1),
    ]
    assert [each.drop for each in found] == [1.0, 0.5, -0.5]


def test_a_rows_values_are_short_texts_and_missing_ones_are_left_out() -> None:
    fields = {"kind": "x" * 100, "level": 3, "none": None}
    assert values_of(fields, ["kind", "level", "none", "other"]) == {"kind": "x" * 64, "level": "3"}

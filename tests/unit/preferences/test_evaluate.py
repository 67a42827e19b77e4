import pytest

from rlhf_trainer.preferences.calibration import Temperature
from rlhf_trainer.preferences.evaluate import evaluate
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.preferences.measures import DimensionReport


def judged(row: int, first: str, second: str | None, p_first: float, group: int | None = None, **slices: str) -> Judged:
    tie = p_first == 0.5
    return Judged(row, f"p{group or row}", first, second, p_first, tie, 1.0, "overall", group or row, slices)


def measured(
    rows: list[Judged], first: list[float | None], second: list[float | None], least: int = 1
) -> DimensionReport:
    return evaluate("overall", rows, first, second, temperatures=[Temperature()], slice_min_samples=least, seed=1)


def test_accuracy_is_of_pairs_with_a_winner_and_both_scores() -> None:
    rows = [
        judged(1, "aa", "b", 1.0),
        judged(2, "aa", "b", 0.0),
        judged(3, "aa", "b", 0.8),
        judged(4, "aa", "b", 0.5),
        judged(5, "aa", "b", 1.0),
    ]
    found = measured(rows, [1.0, 1.0, 1.0, 9.0, None], [0.0, 0.0, 1.0, 0.0, 0.0])
    assert found.accuracy is not None
    assert (found.accuracy.pairs, found.accuracy.value) == (3, pytest.approx(0.5))
    assert (found.ties, found.unscored) == (1, 1)
    assert found.length.rule is not None
    assert found.length.rule.value == pytest.approx(2 / 3)


def test_a_model_that_is_length_is_no_better_than_length_and_its_bias_is_one() -> None:
    rows = [judged(at, "x" * (10 + 3 * at), "x" * (40 - at), float(at % 2)) for at in range(1, 30)]
    found = measured(
        rows, [float(len(row.first)) for row in rows], [float(len(row.second or "")) for row in rows]
    ).figures()
    assert found.accuracy == found.length_accuracy
    assert found.over_length is not None
    assert found.over_length[0] == 0.0
    assert found.length_bias == pytest.approx(1.0)


def test_pairs_of_equal_length_are_judged_apart() -> None:
    rows = [
        judged(1, "x" * 100, "y" * 95, 1.0),
        judged(2, "x" * 100, "y" * 50, 1.0),
        judged(3, "x" * 60, "y" * 66, 1.0),
    ]
    found = measured(rows, [1.0, -1.0, -1.0], [0.0] * 3).figures()
    assert (found.length_matched_pairs, found.length_matched_accuracy) == (2, 0.5)


def test_lone_responses_are_judged_by_pairs_so_that_a_constant_score_is_worth_half() -> None:
    rows = [judged(at, f"text {at}", None, float(at > 10)) for at in range(1, 101)]
    alike = measured(rows, [1.0] * 100, [None] * 100)
    assert (alike.lone, alike.lone_pairs) == (100, 10)
    assert alike.accuracy is not None
    assert alike.accuracy.value == 0.5
    right = measured(rows, [row.p_first for row in rows], [None] * 100)
    assert right.accuracy is not None
    assert right.accuracy.value == 1.0
    assert right.length.rule is None


def test_the_worst_slice_is_named_among_those_large_enough() -> None:
    rows = [judged(at, "a", "b", 1.0, topic="mail" if at <= 6 else "code") for at in range(1, 11)]
    rows.append(judged(11, "a", "b", 1.0, topic="rare"))
    found = measured(rows, [1.0] * 4 + [-1.0] * 2 + [1.0] * 4 + [-1.0], [0.0] * 11, least=2)
    assert [(each.slice, each.pairs) for each in found.slices] == [("code", 4), ("mail", 6), ("rare", 1)]
    worst = found.figures().worst_slice
    assert worst is not None
    assert (worst.value, worst.accuracy) == ("mail", pytest.approx(2 / 3))


def test_nothing_held_out_measures_nothing() -> None:
    found = measured([], [], []).figures()
    assert found.accuracy is found.calibration_error is found.length_bias is found.over_length is None
    assert found.pairs == 0

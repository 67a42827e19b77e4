from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.data.cells import Unusable, truth_of
from rlhf_trainer.preferences.verdicts import preference, ranks_of


@pytest.mark.parametrize(
    ("value", "responses", "ranks"),
    [
        (0, 2, (1, 1)),
        (1, 2, (1, 2)),
        (2.0, 2, (2, 1)),
        (None, 2, None),
        ("2>1=3", 3, (2, 1, 2)),
        ("3 > 1", 3, (2, None, 1)),
        ([3, 1, 2], 3, (3, 1, 2)),
        ([1, None, 2.0], 3, (1, None, 2)),
        ([2, 1], 2, (2, 1)),
    ],
)
def test_a_cell_becomes_ranks(value: Any, responses: int, ranks: tuple[int | None, ...] | None) -> None:
    assert ranks_of("x", value, responses) == ranks


@pytest.mark.parametrize(
    ("value", "responses"),
    [
        (True, 2), (3, 2), ("1", 2), (1, 3), ([1, 2], 3), ([0, 1, 2], 3), ([1, 2, 4], 3), ([True, 2, 3], 3), ("4>1", 3),
        ("1>1", 3), ("0>1", 3), ("1>", 3), (">", 3), ("1>2" * 100, 3), ({}, 2), (float("nan"), 2), ([[1], 2], 2),
    ],
)  # fmt: skip
def test_a_cell_that_means_nothing_is_named_and_never_guessed(value: Any, responses: int) -> None:
    with pytest.raises(Unusable, match="x is") as found:
        ranks_of("x", value, responses)
    assert found.value.reason == "BadLabel"


@given(st.permutations([1, 2, 3, 4]))
def test_an_order_and_its_ranks_say_the_same(order: list[int]) -> None:
    text = ">".join(map(str, order))
    ranks = [order.index(number) + 1 for number in (1, 2, 3, 4)]
    assert ranks_of("x", text, 4) == ranks_of("x", ranks, 4)


def test_a_response_that_was_not_ranked_is_compared_with_none() -> None:
    assert preference((1, None, 2), 0, 1) is None
    assert preference((1, None, 2), 0, 2) == 1.0
    assert preference((1, None, 1), 2, 0) == 0.5
    assert preference(None, 0, 1) is None


def test_truth_is_a_boolean_or_zero_or_one() -> None:
    assert [truth_of("x", value) for value in (True, False, 1, 0.0)] == [1.0, 0.0, 1.0, 0.0]
    for value in ("true", 2, None, float("nan")):
        with pytest.raises(Unusable):
            truth_of("x", value)

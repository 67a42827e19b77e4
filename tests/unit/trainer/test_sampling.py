"""Draws and orders depend on what they are named for, and on nothing else."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.sampling import DataOrder, gumbel_noise, permutation, row_keys


def noise(rows: list[int], position: int = 0, seed: int = 1, update: int = 1, vocabulary: int = 50) -> torch.Tensor:
    return gumbel_noise(row_keys(seed, "rollout", update, torch.tensor(rows)), position, vocabulary)


def test_a_rows_draw_does_not_depend_on_its_batch() -> None:
    together = noise([3, 4, 5, 6])
    assert torch.equal(together[2], noise([5])[0])
    assert torch.equal(together[[3, 0]], noise([6, 3]))


def test_seed_update_row_position_and_token_each_give_another_draw() -> None:
    draws = [noise([1]), noise([2]), noise([1], position=1), noise([1], seed=2), noise([1], update=2)]
    for first in range(len(draws)):
        for second in range(first):
            assert not torch.equal(draws[first], draws[second])
    assert noise([1]).unique().numel() == 50


def test_draws_follow_the_softmax() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    count = 40_000
    drawn = (probabilities.log() + noise(list(range(count)), vocabulary=4)).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=4) / count
    deviation = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((shares - probabilities).abs() < 4.5 * deviation).all(), shares


def test_draws_at_neighbouring_positions_are_independent() -> None:
    count = 20_000
    first = noise(list(range(count)), position=0, vocabulary=2).argmax(dim=1).double()
    second = noise(list(range(count)), position=1, vocabulary=2).argmax(dim=1).double()
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(float(correlation)) < 4.5 / math.sqrt(count)


def test_noise_is_finite_at_the_ends_of_its_range() -> None:
    many = noise(list(range(2000)), vocabulary=2000)
    assert torch.isfinite(many).all()


@given(rows=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), start=st.integers(0, 200), count=st.integers(1, 60))
def test_every_epoch_has_every_row_once_wherever_reading_starts(rows: int, seed: int, start: int, count: int) -> None:
    order = DataOrder(rows, seed, "prompts")
    epoch = order.rows(rows * 3, rows)
    assert sorted(epoch) == list(range(rows))
    assert DataOrder(rows, seed, "prompts").rows(start, count) == [
        order.at(place) for place in range(start, start + count)
    ]


def test_epochs_are_shuffled_apart() -> None:
    order = DataOrder(30, 7, "prompts")
    assert order.rows(0, 30) != order.rows(30, 30)
    assert permutation(30, 1, "a").tolist() != permutation(30, 1, "b").tolist()

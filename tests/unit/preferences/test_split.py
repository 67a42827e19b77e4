import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.errors import ConfigError
from rlhf_trainer.preferences.split import Part, folds, held_out, measuring, training

GROUPS = st.sets(st.integers(0, 10_000), min_size=2, max_size=200)
SEED = st.integers(0, 2**31)


def of(part: Part, assignment: dict[int, Part]) -> set[int]:
    return {group for group, own in assignment.items() if own is part}


@given(GROUPS, st.floats(0.01, 0.99), SEED)
def test_every_prompt_is_on_one_side_and_both_sides_have_some(groups: set[int], fraction: float, seed: int) -> None:
    found = held_out(groups, fraction, seed)
    assert set(found) == groups
    assert of(Part.HELD_OUT, found)
    assert of(Part.TRAIN, found)
    assert abs(len(of(Part.HELD_OUT, found)) - fraction * len(groups)) <= 1


@given(GROUPS, SEED)
def test_the_split_depends_on_prompts_and_seed_and_not_on_the_order_of_rows(groups: set[int], seed: int) -> None:
    forward, backward = sorted(groups), sorted(groups, reverse=True)
    assert held_out(forward, 0.3, seed) == held_out([*backward, *backward], 0.3, seed)
    assert folds(forward, 2, seed) == folds(backward, 2, seed)


@given(st.sets(st.integers(0, 10_000), min_size=20, max_size=200), st.integers(2, 20), SEED)
def test_folds_hold_every_prompt_out_exactly_once(groups: set[int], count: int, seed: int) -> None:
    rounds = folds(groups, count, seed)
    assert len(rounds) == count
    out = [group for each in rounds for group in of(Part.HELD_OUT, each)]
    assert sorted(out) == sorted(groups)
    sizes = [len(of(Part.HELD_OUT, each)) for each in rounds]
    assert max(sizes) - min(sizes) <= 1
    assert all(set(each) == groups for each in rounds)


@given(GROUPS, SEED)
def test_the_temperature_has_prompts_of_its_own(groups: set[int], seed: int) -> None:
    for found in (training(groups, seed), measuring(groups, seed, calibrate=True)):
        assert set(found) == groups
        assert len(of(Part.CALIBRATION, found)) == round(0.1 * len(groups))
    assert not of(Part.CALIBRATION, measuring(groups, seed, calibrate=False))


def test_another_seed_gives_another_split() -> None:
    assert held_out(range(100), 0.5, 1) != held_out(range(100), 0.5, 2)


def test_too_few_prompts_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"3 different prompts.*at least 5") as found:
        folds([1, 2, 3], 5, 0)
    assert found.value.reason == "TooFewPrompts"

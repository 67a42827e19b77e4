import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.preferences.calibration import calibration_bins, expected_calibration_error, fit_temperature
from rlhf_trainer.preferences.judged import Judged


def judged(p_first: float, weight: float = 1.0) -> Judged:
    return Judged(1, "p", "a", "b", p_first, p_first == 0.5, weight, "overall", 0)


def drawn(count: int, scale: float, seed: int = 0) -> tuple[list[Judged], list[float], list[float | None]]:
    """Judgements that follow σ(z), and logits that are `scale` times too large."""
    generator = np.random.default_rng(seed)
    z = generator.normal(0, 2, count)
    rows = [judged(float(generator.random() < 1 / (1 + np.exp(-each)))) for each in z]
    return rows, [float(scale * each) for each in z], [0.0] * count


@pytest.mark.parametrize("scale", [0.01, 0.5, 7.0, 300.0])
def test_the_temperature_undoes_a_wrong_scale(scale: float) -> None:
    found = fit_temperature(*drawn(4000, scale))
    assert found.fitted
    assert found.value == pytest.approx(scale, rel=0.1)


def test_the_temperature_never_makes_the_likelihood_much_worse() -> None:
    found = fit_temperature(*drawn(50, 4.0))
    assert (found.nll_after or 0) < (found.nll_before or 0)


def test_rows_that_all_come_out_right_give_no_endless_scores() -> None:
    found = fit_temperature([judged(1.0)] * 20, [1.0] * 20, [0.0] * 20)
    assert found.value > 0.1


def test_too_few_rows_or_scores_without_spread_give_no_temperature() -> None:
    assert fit_temperature([judged(1.0)] * 3, [1.0] * 3, [0.0] * 3).value == 1.0
    assert not fit_temperature([judged(1.0)] * 20, [1.0] * 20, [1.0] * 20).fitted
    assert not fit_temperature([], [], []).fitted


@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(0, 1)), min_size=1, max_size=60))
def test_which_response_comes_first_does_not_change_the_calibration_error(rows: list[tuple[float, float]]) -> None:
    z, p = (np.array(side) for side in zip(*rows, strict=True))
    here, there = (expected_calibration_error(calibration_bins(*each)) for each in ((z, p), (-z, 1 - p)))
    assert here == pytest.approx(there)
    assert 0 <= (here or 0) <= 1


def test_true_probabilities_have_no_calibration_error_and_boasting_has() -> None:
    rows, z, _ = drawn(20_000, 1.0)
    p = np.array([row.p_first for row in rows])
    assert (expected_calibration_error(calibration_bins(np.array(z), p)) or 0) < 0.02
    assert (expected_calibration_error(calibration_bins(5 * np.array(z), p)) or 0) > 0.1
    assert expected_calibration_error([]) is None

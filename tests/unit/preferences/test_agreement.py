import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.data.similarity import key
from rlhf_trainer.preferences.agreement import agreement_figures, alpha, alpha_of, alpha_sums, cohen, fleiss
from rlhf_trainer.preferences.comparisons import Comparison, Place
from rlhf_trainer.preferences.judgements import Judgement


def compared(row: int, votes: tuple[float | None, ...], gold: float | None = None) -> Comparison:
    judgement = Judgement(row, key(f"p{row}"), (), "overall", 1.0, {})
    return Comparison(judgement, Place(row, 0), Place(row, 1), (b"a", b"b"), votes, gold, 1.0)


def test_alpha_is_krippendorffs_of_his_own_example() -> None:
    """Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, C: nominal, any number of observers."""
    nan = np.nan
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert alpha(np.array(observers)) == pytest.approx(0.743, abs=0.001)


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, np.nan])] * 4), min_size=1, max_size=30))
def test_the_sums_that_the_interval_is_drawn_from_give_the_librarys_alpha(rows: list[tuple[float, ...]]) -> None:
    table = np.array(rows).T
    shared = table[:, (~np.isnan(table)).sum(axis=0) >= 2]
    disagreement, counts = alpha_sums(table)
    assert alpha_of(float(disagreement.sum()), counts.sum(axis=0)) == pytest.approx(alpha(shared))


def test_full_agreement_is_one_and_one_verdict_only_is_not_measurable() -> None:
    both = np.array([[1.0, 0.0, 0.5], [1.0, 0.0, 0.5], [1.0, 0.0, 0.5]])
    assert alpha(both) == fleiss(both) == cohen(both[0], both[1]) == pytest.approx(1.0)
    one = np.ones((3, 4))
    assert alpha(one) is fleiss(one) is cohen(one[0], one[1]) is None


def test_annotators_are_held_against_each_other_and_against_gold_rows() -> None:
    rows = [compared(at, (1.0, 1.0, 0.0), gold=1.0 if at <= 8 else None) for at in range(1, 11)]
    rows += [compared(at, (0.0, 0.0, None)) for at in range(11, 15)]
    found = agreement_figures("overall", ("x", "y", "z"), rows, [0.9, 0.8, 0.1], seed=1)
    assert found.measurable
    assert found.comparisons == 14
    assert found.fleiss_comparisons == 10
    x, _, z = found.annotators
    assert (x.votes, z.votes) == (14, 10)
    assert x.agreement == pytest.approx((10 * 0.5 + 4) / 14)
    assert z.agreement == 0.0
    assert (x.gold_rows, x.gold_accuracy, z.gold_accuracy) == (8, 1.0, 0.0)
    assert x.gold_interval is not None
    assert x.gold_interval[0] == pytest.approx(0.676, abs=0.001)
    assert x.reliability == 0.9
    assert [(pair.first, pair.second, pair.same) for pair in found.pairs] == [
        ("x", "y", 1.0), ("x", "z", 0.0), ("y", "z", 0.0)
    ]  # fmt: skip
    assert found.alpha_interval is not None
    assert found.alpha_interval[0] <= (found.alpha or 0) <= found.alpha_interval[1]


def test_one_annotator_has_no_agreement() -> None:
    found = agreement_figures("overall", ("x",), [compared(1, (1.0,)), compared(2, (0.0,))], None, seed=1)
    assert not found.measurable
    assert found.alpha is None
    assert found.annotators[0].agreement is None

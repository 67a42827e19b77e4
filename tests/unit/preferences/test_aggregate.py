import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.rewardmodel import AggregationMethod
from rlhf_operator.api.shared import Format
from rlhf_trainer.data.similarity import key
from rlhf_trainer.preferences.aggregate import Label, aggregate
from rlhf_trainer.preferences.comparisons import comparisons_of
from rlhf_trainer.preferences.judgements import Judgement
from rlhf_trainer.preferences.ranking import borda, bradley_terry
from rlhf_trainer.preferences.reliability import reliability_weighted
from rlhf_trainer.preferences.verdicts import Ranks

RANKS: dict[int | None, Ranks | None] = {0: (1, 1), 1: (1, 2), 2: (2, 1), None: None}


def labels(method: AggregationMethod, *rows: tuple[int | None, ...], gold: int | None = None) -> list[Label]:
    judged = [
        Judgement(
            at,
            key(f"p{at}"),
            (key("a"), key("b")),
            "overall",
            1.0,
            {},
            tuple(RANKS[vote] for vote in votes),
            RANKS[gold],
        )
        for at, votes in enumerate(rows, start=1)
    ]
    return aggregate(method, comparisons_of(Format.PAIRS, judged)).labels


@pytest.mark.parametrize(
    ("votes", "p_first", "tie", "agreement"),
    [
        ((1, 1, 2), 1.0, False, 2 / 3),
        ((2, 2, 0), 0.0, False, 2 / 3),
        ((1, None, None), 1.0, False, 1.0),
        ((0, 0, 1), 2 / 3, True, 2 / 3),
        ((0, 1, 2), 0.5, True, 1 / 3),
        ((1, 2, None), 0.5, True, 0.5),
        ((1, 0, None), 0.75, True, 0.5),
    ],
)
def test_majority_needs_more_than_half_and_a_tie_keeps_the_share_of_votes(
    votes: tuple[int | None, ...], p_first: float, tie: bool, agreement: float
) -> None:
    (found,) = labels(AggregationMethod.MAJORITY, votes)
    assert (found.p_first, found.tie, found.agreement) == (pytest.approx(p_first), tie, pytest.approx(agreement))


@pytest.mark.parametrize("method", [AggregationMethod.MAJORITY, AggregationMethod.BRADLEY_TERRY])
def test_a_gold_verdict_is_the_label_whatever_was_voted(method: AggregationMethod) -> None:
    (found,) = labels(method, (1, 1, 1), gold=2)
    assert (found.p_first, found.tie) == (0.0, False)


@given(st.lists(st.tuples(*[st.sampled_from([0, 1, 2])] * 3), min_size=1, max_size=12))
def test_majority_sees_no_difference_between_first_and_second(rows: list[tuple[int, ...]]) -> None:
    turned = [tuple({0: 0, 1: 2, 2: 1}[vote] for vote in row) for row in rows]
    here, there = (labels(AggregationMethod.MAJORITY, *each) for each in (rows, turned))
    assert [label.p_first for label in here] == pytest.approx([1 - label.p_first for label in there])
    assert [label.tie for label in here] == [label.tie for label in there]


def test_bradley_terry_orders_by_wins_and_stays_finite() -> None:
    strengths = bradley_terry([(0, 1, 1.0), (1, 2, 1.0), (0, 2, 1.0), (0, 1, 1.0)], 3)
    assert strengths[0] > strengths[1] > strengths[2] > 0


def test_bradley_terry_reaches_the_maximum_of_its_likelihood() -> None:
    """The gradient vanishes: expected wins equal those seen, the prior's included."""
    outcomes = [(0, 1, 1.0)] * 5 + [(1, 2, 1.0)] * 3 + [(2, 1, 1.0)] + [(0, 2, 0.5)] * 4 + [(3, 0, 1.0), (2, 3, 1.0)]
    s = bradley_terry(outcomes, 4)
    seen = [0.0] * 4
    expected = [0.0] * 4
    prior = [(i, j, 0.5) for i, j in {(min(i, j), max(i, j)) for i, j, _ in outcomes}]
    for i, j, vote in outcomes + prior:
        seen[i] += vote
        seen[j] += 1 - vote
        expected[i] += s[i] / (s[i] + s[j])
        expected[j] += s[j] / (s[i] + s[j])
    assert expected == pytest.approx(seen, abs=0.05)


def test_bradley_terry_of_two_items_is_the_share_of_wins_with_half_a_win_for_each() -> None:
    won, lost = bradley_terry([(1, 0, 0.0), (0, 1, 1.0), (0, 1, 0.5)], 2)
    assert won / (won + lost) == pytest.approx((2.5 + 0.5) / 4)


def test_a_response_gains_by_bradley_terry_from_the_other_rows_of_its_prompt() -> None:
    def row(number: int, first: str, second: str, verdict: int) -> Judgement:
        return Judgement(number, key("p"), (key(first), key(second)), "overall", 1.0, {}, (RANKS[verdict],))

    rows = [row(1, "a", "b", 1), row(2, "b", "c", 1), row(3, "a", "c", 0)]
    found = aggregate(AggregationMethod.BRADLEY_TERRY, comparisons_of(Format.PAIRS, rows)).labels
    assert found[2].p_first > 0.5


def test_borda_finds_an_order_where_the_majority_goes_round_in_a_circle() -> None:
    circle: list[Ranks | None] = [(1, 2, 3), (3, 1, 2), (2, 3, 1), (1, 2, 3)]
    points = borda(circle, 3)
    assert points == pytest.approx([0.625, 0.5, 0.375])
    row = Judgement(1, key("p"), (key("a"), key("b"), key("c")), "overall", 1.0, {}, tuple(circle))
    found = aggregate(AggregationMethod.BORDA, comparisons_of(Format.RANKING, [row])).labels
    assert [label.p_first for label in found] == [1.0, 1.0, 1.0]


@given(st.lists(st.permutations([1, 2, 3, 4]), min_size=1, max_size=5))
def test_borda_gives_out_the_same_points_whatever_the_rankings(rankings: list[list[int]]) -> None:
    points = borda([tuple(ranking) for ranking in rankings], 4)
    assert sum(point for point in points if point is not None) == pytest.approx(2.0)
    assert all(point is not None and 0 <= point <= 1 for point in points)


def simulated(seed: int, comparisons: int, errors: list[float]) -> tuple[list[float], list[tuple[float, ...]]]:
    """True verdicts, and the votes of annotators who err independently at the given rates."""
    generator = np.random.default_rng(seed)
    truth = [float(value) for value in generator.integers(0, 2, comparisons)]
    votes = [tuple(1 - value if generator.random() < error else value for error in errors) for value in truth]
    return truth, votes


@pytest.mark.parametrize("errors", [[0.05, 0.1, 0.3, 0.4, 0.45], [0.1, 0.2, 0.2, 0.3, 0.8]])
def test_weighing_by_reliability_recovers_more_true_labels_than_the_majority(errors: list[float]) -> None:
    truth, votes = simulated(1, 300, errors)
    found = reliability_weighted(votes, [None] * len(votes))
    majority = np.mean([(sum(row) > len(row) / 2) == value for row, value in zip(votes, truth, strict=True)])
    weighted = np.mean([(c[0] > c[1]) == value for c, value in zip(found.chances, truth, strict=True)])
    assert weighted >= majority + 0.03
    assert found.reliability == pytest.approx([1 - error for error in errors], abs=0.1)


def test_weighing_by_reliability_sees_no_difference_between_first_and_second() -> None:
    _, votes = simulated(3, 40, [0.1, 0.3, 0.4])
    here = reliability_weighted(votes, [None] * 40)
    there = reliability_weighted([tuple(1 - vote for vote in row) for row in votes], [None] * 40)
    assert [chance[0] for chance in here.chances] == pytest.approx([chance[1] for chance in there.chances], abs=1e-6)


def test_gold_verdicts_turn_a_majority_that_is_wrong() -> None:
    """Two annotators always lie alike; without gold rows nobody could know."""
    votes = [(1.0, 0.0, 0.0), (0.0, 1.0, 1.0)] * 15
    gold = [1.0, 0.0] * 5 + [None] * 20
    found = reliability_weighted(votes, gold)
    assert [chance[0] > 0.5 for chance in found.chances[10:]] == [True, False] * 10
    first, *liars = (each for each in found.reliability if each is not None)
    assert first > 0.9
    assert max(liars) < 0.1


def test_one_annotator_alone_is_believed() -> None:
    found = labels(AggregationMethod.RELIABILITY_WEIGHTED, (1,), (2,), (0,))
    assert [(label.p_first, label.tie) for label in found] == [(1.0, False), (0.0, False), (0.5, True)]

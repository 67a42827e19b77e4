from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.shared import Format
from rlhf_trainer.data.similarity import key
from rlhf_trainer.preferences.comparisons import NEIGHBOURS, Comparison, comparisons_of
from rlhf_trainer.preferences.judgements import Judgement
from rlhf_trainer.preferences.verdicts import Ranks


def ranked(row: int, *verdicts: Ranks | None, responses: int = 3, weight: float = 1.0) -> Judgement:
    keys = tuple(key(f"r{row} {at}") for at in range(responses))
    return Judgement(row, key("p"), keys, "overall", weight, {}, verdicts)


def valued(row: int, value: float, text: str | None = None, prompt: str = "p", weight: float = 1.0) -> Judgement:
    return Judgement(row, key(prompt), (key(text or f"text {row}"),), "overall", weight, {}, value=value)


def weights_by_row(found: list[Comparison]) -> dict[int, float]:
    """How much each row weighs: a comparison's weight is shared by the texts in it."""
    weights: dict[int, float] = defaultdict(float)
    for each in found:
        if each.second is None:
            weights[each.first.row] += each.weight
        else:
            weights[each.first.row] += each.weight / 2
            weights[each.second.row] += each.weight / 2
    return weights


@given(st.integers(2, 8), st.floats(0.1, 10))
def test_a_ranking_gives_every_pair_and_counts_once(responses: int, weight: float) -> None:
    ranks = tuple(range(1, responses + 1))
    found = comparisons_of(Format.RANKING, [ranked(1, ranks, responses=responses, weight=weight)])
    assert len(found) == responses * (responses - 1) // 2
    assert all(each.votes == (1.0,) for each in found)
    assert sum(each.weight for each in found) == pytest.approx(weight)


def test_responses_nobody_compared_make_no_pair() -> None:
    found = comparisons_of(Format.RANKING, [ranked(1, (1, None, 2), (None, None, 1))])
    assert [(each.first.at, each.second.at if each.second else None, each.votes) for each in found] == [
        (0, 2, (1.0, None))
    ]
    assert found[0].weight == 1.0


def test_scores_of_one_prompt_become_pairs_by_their_order() -> None:
    found = comparisons_of(Format.SCALAR, [valued(1, 3.0), valued(2, 7.0), valued(3, 3.0)])
    votes = {(each.first.row, each.second.row if each.second else 0): each.votes for each in found}
    assert votes == {(1, 2): (0.0,), (1, 3): (0.5,), (2, 3): (1.0,)}


def test_a_lone_score_stands_by_its_rank_in_the_data_set() -> None:
    rows = [valued(at, float(at) ** 3, prompt=f"p{at}") for at in range(1, 6)]
    found = comparisons_of(Format.SCALAR, rows)
    assert all(each.second is None for each in found)
    assert [each.votes[0] for each in found] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_good_and_bad_texts_meet_and_the_others_stand_alone() -> None:
    rows = [valued(1, 1.0), valued(2, 0.0), valued(3, 1.0), valued(4, 0.0, prompt="q")]
    found = comparisons_of(Format.BINARY, rows)
    assert {(each.first.row, each.second.row if each.second else None, each.votes[0]) for each in found} == {
        (1, 2, 1.0),
        (2, 3, 0.0),
        (4, None, 0.0),
    }


def test_one_text_called_good_and_bad_is_not_lost_but_left_to_contradict_itself() -> None:
    found = comparisons_of(Format.BINARY, [valued(1, 1.0, "same"), valued(2, 0.0, "same")])
    assert [(each.first.row, each.second, each.votes) for each in found] == [(1, None, (1.0,)), (2, None, (0.0,))]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.floats(0.1, 5)), min_size=1, max_size=60))
def test_every_binary_row_is_used_and_weighs_what_it_should(rows: list[tuple[bool, int, float]]) -> None:
    judged = [
        valued(at, float(good), prompt=f"p{prompt}", weight=weight)
        for at, (good, prompt, weight) in enumerate(rows, start=1)
    ]
    found = comparisons_of(Format.BINARY, judged)
    seen = {place.row for each in found for place in (each.first, each.second) if place is not None}
    assert seen == {each.row for each in judged}
    paired = [each for each in found if each.second is not None]
    in_pairs = {place.row for each in paired for place in (each.first, each.second) if place is not None}
    total = sum(each.weight for each in judged if each.row in in_pairs)
    assert sum(each.weight for each in paired) == pytest.approx(total / 2)


def test_a_prompt_with_many_texts_makes_a_bounded_number_of_pairs() -> None:
    found = comparisons_of(Format.SCALAR, [valued(at, float(at)) for at in range(1, 201)])
    assert len(found) == 200 * NEIGHBOURS // 2
    weights = weights_by_row(found)
    assert all(weight == pytest.approx(0.5) for weight in weights.values())

"""Not among the fast tests: rouge-score brings nltk and scipy, which take seconds to import."""

import math
from typing import Any

import pytest

from rlhf_operator.api.plan import PlanScorer
from rlhf_scoring.build import build_scorers


def one(grader: dict[str, Any], response: str, **row: Any) -> float | None:
    with build_scorers([PlanScorer.model_validate({"name": "s", "grader": grader})]) as scorers:
        return scorers.score("s", ["p"], [response], [row])[0]


@pytest.mark.parametrize("metric", ["ROUGE-L", "ROUGE-1", "BLEU", "chrF"])
def test_overlap_is_one_for_the_reference_nothing_for_the_rest_and_never_above_the_cap(metric: str) -> None:
    row = {"chosen": "the parcel will arrive tomorrow morning"}
    grader = {"overlap": {"metric": metric}}
    assert one(grader, row["chosen"], **row) == pytest.approx(1.0)
    assert one(grader, "", **row) == 0.0
    partly = one(grader, "the parcel is lost", **row)
    assert partly is not None
    assert 0.0 < partly < 1.0
    assert one({"overlap": {"metric": metric, "cap": 0.1}}, row["chosen"], **row) == 0.1


@pytest.mark.parametrize("metric", ["ROUGE-L", "ROUGE-1"])
def test_overlap_knows_words_in_every_script(metric: str) -> None:
    assert one({"overlap": {"metric": metric}}, "посылка придёт", chosen="посылка придёт завтра") == pytest.approx(0.8)


@pytest.mark.parametrize("reference", [None, "", "  ", [], True, math.inf])
def test_a_row_without_a_reference_has_no_score(reference: Any) -> None:
    row = {} if reference is None else {"chosen": reference, "answer": reference}
    expected = 0.0 if reference == math.inf else None
    assert one({"overlap": {}}, "text", **row) == expected
    assert one({"finalAnswer": {}}, "text", **row) == expected


def test_long_texts_are_compared_in_bounded_time() -> None:
    text = "word " * 100_000
    assert one({"overlap": {}}, text, chosen=text) == pytest.approx(1.0)

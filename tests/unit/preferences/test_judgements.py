from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.plan import PlanDataset
from rlhf_trainer.data.cells import Unusable
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.preferences.judgements import RowReader

from .conftest import THREE, dataset


def reader(
    format_: str, slices: tuple[str, ...] = (), dimensions: tuple[str, ...] = ("overall",), **columns: Any
) -> RowReader:
    data = PlanDataset.model_validate(dataset(Path("/x"), format_=format_, **columns))
    return RowReader(data, list(dimensions), list(slices))


def test_chosen_and_rejected_are_one_annotators_verdict() -> None:
    judgement, texts = reader("Pairs").read(4, {"prompt": "p", "chosen": "a", "rejected": "b"})
    assert judgement.verdicts == ((1, 2),)
    assert (texts.row, texts.prompt, texts.responses) == (4, "p", ("a", "b"))


def test_an_annotator_who_did_not_judge_is_no_vote() -> None:
    judgement, _ = reader("Pairs", **THREE).read(1, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": None, "z": 0})
    assert judgement.verdicts == ((1, 2), None, (1, 1))


def test_slices_weight_dimension_and_gold_are_taken_along() -> None:
    columns = THREE | {"category": "topic", "weight": "w", "dimension": "d", "gold": "g"}
    found = reader("Pairs", ("site",), ("safety", "style"), **columns)
    row = {
        "prompt": "p",
        "a": "A",
        "b": "B",
        "x": 1,
        "y": 1,
        "z": 1,
        "topic": 3,
        "w": 2,
        "d": "style",
        "g": 2,
        "site": True,
    }
    judgement, _ = found.read(1, row)
    assert (judgement.dimension, judgement.weight, judgement.gold) == ("style", 2.0, (2, 1))
    assert judgement.slices == {"topic": "3", "site": "True"}


def test_of_a_lone_response_a_gold_value_stands_above_the_label() -> None:
    assert (
        reader("Binary", gold="g").read(1, {"prompt": "p", "response": "r", "label": True, "g": False})[0].value == 0.0
    )
    assert reader("Scalar", gold="g").read(1, {"prompt": "p", "response": "r", "label": 3, "g": None})[0].value == 3.0


@pytest.mark.parametrize(
    ("format_", "columns", "row", "reason"),
    [
        ("Pairs", {}, {"prompt": "p", "chosen": True, "rejected": "b"}, "NonStringResponse"),
        ("Pairs", {}, {"prompt": "p", "chosen": "a", "rejected": " a "}, "SameResponses"),
        ("Pairs", {}, {"prompt": 5, "chosen": "a", "rejected": "b"}, "NonStringPrompt"),
        ("Pairs", {}, {"prompt": "p", "chosen": "\ud800", "rejected": "b"}, "InvalidText"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": None, "y": None, "z": None}, "NoJudgement"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 1}, "MissingColumn"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 1, "z": True}, "BadLabel"),
        ("Pairs", {"weight": "w"}, {"prompt": "p", "chosen": "a", "rejected": "b", "w": -1}, "BadWeight"),
        ("Pairs", {"weight": "w"}, {"prompt": "p", "chosen": "a", "rejected": "b"}, "BadWeight"),
        ("Pairs", {"dimension": "d"}, {"prompt": "p", "chosen": "a", "rejected": "b", "d": "x"}, "UnknownDimension"),
        ("Pairs", {"dimension": "d"}, {"prompt": "p", "chosen": "a", "rejected": "b", "d": ["x"]}, "UnknownDimension"),
        ("Scalar", {}, {"prompt": "p", "response": "a", "label": "5"}, "BadLabel"),
        ("Scalar", {}, {"prompt": "p", "response": "a", "label": None}, "NoJudgement"),
        ("Binary", {}, {"prompt": "p", "response": "a", "label": 3}, "BadLabel"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(
    format_: str, columns: dict[str, Any], row: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unusable) as found:
        reader(format_, **columns).read(1, row)
    assert found.value.reason == reason


@pytest.mark.parametrize("format_", ["Prompts", "Demonstrations", "Ranking"])
def test_formats_and_columns_without_judgements_are_refused(format_: str) -> None:
    with pytest.raises(ConfigError):
        reader(format_)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = ("prompt", "a", "b", "c", "response", "label", "x", "y", "g", "w", "d")


@given(
    st.sampled_from(["Pairs", "Ranking", "Scalar", "Binary"]),
    st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from(["2>1", "text", 1, 2, True]), max_size=len(NAMES)),
)
def test_any_row_is_read_or_says_why_not(format_: str, row: dict[str, Any]) -> None:
    columns: dict[str, Any] = {"gold": "g", "weight": "w", "category": "c"}
    if format_ in ("Pairs", "Ranking"):
        columns |= {"responses": ["a", "b"], "annotators": ["x", "y"]}
    found, why = None, ""
    try:
        found = reader(format_, **columns).read(3, row)
    except Unusable as problem:
        why = str(problem)
    if found is None:
        assert why
    else:
        judgement, texts = found
        assert judgement.row == texts.row == 3
        assert len(judgement.responses) == len(texts.responses)

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.shared import Columns, Format
from rlhf_scoring.judge import ROW_NUMBER
from rlhf_trainer.data.rows import Row, Unusable, check_format, meaning
from rlhf_trainer.errors import ConfigError

THREE = {"responses": ["a", "b"], "annotators": ["x", "y", "z"]}


def apply(format_: str, columns: dict[str, Any], source: dict[str, Any]) -> Row:
    return meaning(Format(format_), Columns.model_validate(columns), 7, source)


def test_prompt_columns_are_joined_by_a_blank_line_and_empty_ones_left_out() -> None:
    columns = {"prompt": ["instruction", "input"]}
    assert apply("Prompts", columns, {"instruction": "Add.", "input": "1 2"}).prompt == "Add.\n\n1 2"
    assert apply("Prompts", columns, {"instruction": "Add.", "input": " "}).prompt == "Add."
    assert apply("Prompts", columns, {"instruction": "Add.", "input": None}).prompt == "Add."


@pytest.mark.parametrize(
    ("verdicts", "chosen"),
    [
        ((1, 1, 1), "A"),
        ((1, None, None), "A"),
        ((1, 1, 2), "A"),
        ((1, 1, 0), "A"),
        ((2, 2, 0), "B"),
        ((2, 1, 2), "B"),
        ((2.0, 2, 1), "B"),
    ],
)
def test_the_majority_of_annotators_chooses(verdicts: tuple[float | None, ...], chosen: str) -> None:
    source = {"prompt": "p", "a": "A", "b": "B", **dict(zip("xyz", verdicts, strict=True))}
    row = apply("Pairs", THREE, source)
    assert row.chosen == chosen
    assert {row.chosen, row.rejected} == {"A", "B"}
    assert apply("Demonstrations", THREE, source).response == chosen
    assert apply("Prompts", THREE, source).fields["chosen"] == chosen


@pytest.mark.parametrize(
    ("format_", "columns", "source", "reason"),
    [
        ("Prompts", {}, {}, "MissingColumn"),
        ("Prompts", {"prompt": ["a", "b"]}, {"c": "x"}, "MissingColumn"),
        ("Prompts", {}, {"prompt": 3}, "NonStringPrompt"),
        ("Prompts", {}, {"prompt": None}, "NonStringPrompt"),
        ("Prompts", {"prompt": ["a", "b"]}, {"a": "x", "b": True}, "NonStringPrompt"),
        ("Prompts", {}, {"prompt": " \n"}, "EmptyPrompt"),
        ("Prompts", {}, {"prompt": "\ud800"}, "InvalidText"),
        ("Prompts", {"answer": "answer"}, {"prompt": "p"}, "MissingColumn"),
        ("Prompts", {"answer": "answer"}, {"prompt": "p", "answer": True}, "NonStringAnswer"),
        ("Prompts", {"answer": "answer"}, {"prompt": "p", "answer": ""}, "EmptyAnswer"),
        ("Demonstrations", {}, {"prompt": "p"}, "MissingColumn"),
        ("Demonstrations", {}, {"prompt": "p", "response": True}, "NonStringResponse"),
        ("Demonstrations", {}, {"prompt": "p", "response": ""}, "EmptyResponse"),
        ("Pairs", {}, {"prompt": "p", "chosen": "a"}, "MissingColumn"),
        ("Pairs", {}, {"prompt": "p", "chosen": "a", "rejected": "a"}, "SameResponses"),
        ("Pairs", {}, {"prompt": "p", "chosen": "a", "rejected": ["b"]}, "NonStringResponse"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": False, "x": 1, "y": 1, "z": 1}, "NonStringResponse"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 2, "z": 0}, "NoMajority"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 0, "y": 0, "z": 1}, "Tie"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 1}, "MissingColumn"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 1, "z": 3}, "BadLabel"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": None, "y": None, "z": None}, "NoJudgement"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 1, "z": True}, "BadLabel"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 1, "z": "1"}, "BadLabel"),
        ("Pairs", THREE, {"prompt": "p", "a": "A", "b": "A", "x": 1, "y": 1, "z": 1}, "SameResponses"),
        ("Pairs", {"responses": ["a", "b"]}, {"prompt": "p", "a": "A", "b": "B", "label": 0}, "Tie"),
        ("Pairs", {"responses": ["a", "b"]}, {"prompt": "p", "a": "A", "b": "B", "label": 1.5}, "BadLabel"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(
    format_: str, columns: dict[str, Any], source: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unusable) as caught:
        apply(format_, columns, source)
    assert caught.value.reason == reason
    assert caught.value.detail


def test_graders_see_the_sources_columns_the_meaning_and_the_number() -> None:
    row = apply("Pairs", {"chosen": "good", "rejected": "bad"}, {"prompt": "p", "good": "g", "bad": "b", "extra": 3})
    assert row.fields == {
        "prompt": "p", "chosen": "g", "rejected": "b", "good": "g", "bad": "b", "extra": 3, ROW_NUMBER: 7
    }  # fmt: skip


def test_a_column_of_the_source_is_not_hidden_by_a_meaning() -> None:
    source = {"prompt": "p", "good": "g", "bad": "b", "chosen": "another thing"}
    row = apply("Pairs", {"chosen": "good", "rejected": "bad"}, source)
    assert (row.chosen, row.fields["chosen"]) == ("g", "another thing")


@pytest.mark.parametrize("format_", ["Ranking", "Scalar"])
def test_formats_of_later_versions_are_refused_by_name(format_: str) -> None:
    with pytest.raises(ConfigError, match=f"format {format_} is not supported yet") as caught:
        check_format("train", Format(format_), Columns())
    assert caught.value.reason == "NotSupportedYet"


def test_a_pair_has_two_responses() -> None:
    with pytest.raises(ConfigError, match="names 3 columns"):
        check_format("train", Format.PAIRS, Columns(responses=("a", "b", "c"), label="label"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(["Prompts", "Demonstrations", "Pairs"]),
    st.sampled_from([{}, {"answer": "answer"}, THREE, {"prompt": ["prompt", "a"]}]),
    st.dictionaries(st.sampled_from(["prompt", "response", "chosen", "rejected", *"abxyz", "answer"]), json_values),
)
def test_any_row_is_used_or_counted(format_: str, columns: dict[str, Any], source: dict[str, Any]) -> None:
    try:
        row = apply(format_, columns, source)
    except Unusable:
        return
    assert row.prompt.strip()
    assert row.prompt.encode()
    if format_ == "Demonstrations":
        assert isinstance(row.response, str)
        assert row.response.strip()
    if format_ == "Pairs":
        assert row.chosen != row.rejected

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.shared import LengthGrader
from rlhf_scoring.errors import ScorerConfigError
from rlhf_scoring.graders.text import length_score

from .conftest import Build


def one(build: Build, grader: dict[str, Any], response: str, **row: Any) -> float | None:
    return build(grader).score("s", ["p"], [response], [row])[0]


@pytest.mark.parametrize(
    ("config", "response", "score"),
    [
        ({"pattern": "sorry"}, "I am sorry.", 1.0),
        ({"pattern": "sorry"}, "no", 0.0),
        ({"pattern": "sorry", "match": "FullMatch"}, "I am sorry.", 0.0),
        ({"pattern": "(?s)I.*", "match": "FullMatch"}, "I am\nsorry.", 1.0),
        ({"pattern": "http", "negate": True}, "see http://x", 0.0),
        ({"pattern": "http", "negate": True}, "see x", 1.0),
        ({"pattern": r"\p{Lu}\p{Ll}+"}, "Ärger", 1.0),
    ],
)
def test_a_pattern_scores_one_or_zero(build: Build, config: dict[str, Any], response: str, score: float) -> None:
    assert one(build, {"regex": config}, response) == score


def test_a_catastrophic_pattern_gives_no_score_in_time(build: Build) -> None:
    scorers = build({"regex": {"pattern": r"(?:(?:a+)+)+\d{2}$(?<=b)"}})
    assert scorers.score("s", ["p"], ["a" * 400_000], [{}]) == [None]
    assert scorers.timing("s").timeouts == 1
    assert "ran longer" in scorers.timing("s").last_missing


def test_a_pattern_that_does_not_compile_is_a_config_error(build: Build) -> None:
    with pytest.raises(ScorerConfigError, match=r"scorer s: regex\.pattern does not compile"):
        build({"regex": {"pattern": "(("}})


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("schema", "response", "score"),
    [
        (SCHEMA, '{"n": 1}', 1.0),
        (SCHEMA, ' {"n": 1}\n', 1.0),
        (SCHEMA, '{"n": "1"}', 0.0),
        (SCHEMA, 'Sure: {"n": 1}', 0.0),
        (SCHEMA, "", 0.0),
        ({}, "NaN", 0.0),
        ({}, "[" * 100_000, 0.0),
        ({"pattern": "^a+$"}, '"aaa"', 1.0),
        ({"pattern": "^a+$"}, '"b"', 0.0),
        ({"patternProperties": {"^x": {"type": "integer"}}}, '{"x1": "no"}', 0.0),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, "null", 1.0),
    ],
)
def test_json_is_held_against_its_schema(build: Build, schema: Any, response: str, score: float) -> None:
    assert one(build, {"jsonSchema": {"schema": schema}}, response) == score


def test_a_pattern_in_a_schema_has_a_time_limit(build: Build) -> None:
    grader = {"jsonSchema": {"schema": {"pattern": r"(?:(?:a+)+)+\d{2}$(?<=b)"}}}
    assert one(build, grader, json.dumps("a" * 400_000)) is None


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "nonsense"}, "is not a JSON Schema"),
        ({"$ref": "https://example.com/schema.json"}, "does not resolve"),
        ({"$ref": "#"}, "does not resolve"),
    ],
)
def test_a_schema_that_cannot_work_is_a_config_error(build: Build, schema: Any, words: str) -> None:
    with pytest.raises(ScorerConfigError, match=words):
        build({"jsonSchema": {"schema": schema}})


def test_a_remote_reference_is_never_fetched(build: Build) -> None:
    schema = {"anyOf": [{"type": "null"}, {"$ref": "https://example.com/schema.json"}]}
    scorers = build({"jsonSchema": {"schema": schema}})
    assert scorers.score("s", ["p"], ["3"], [{}]) == [None]
    assert "does not resolve" in scorers.timing("s").last_missing


@pytest.mark.parametrize(
    ("config", "length", "score"),
    [
        ({"min": 5, "max": 10}, 4, 0.0),
        ({"min": 5, "max": 10}, 5, 1.0),
        ({"min": 5, "max": 10}, 10, 1.0),
        ({"min": 5, "max": 10}, 11, 0.0),
        ({"max": 10, "slack": 10}, 15, 0.5),
        ({"max": 10, "slack": 10}, 20, 0.0),
        ({"min": 10, "slack": 4}, 9, 0.75),
        ({"min": 10}, 10_000, 1.0),
    ],
)
def test_length_falls_off_over_the_slack(config: dict[str, int], length: int, score: float) -> None:
    assert length_score(length, LengthGrader.model_validate(config)) == score


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 50), st.integers(0, 300))
def test_length_scores_are_rates_and_nearer_is_never_worse(low: int, span: int, slack: int, length: int) -> None:
    config = LengthGrader(min=low, max=low + span, slack=slack)
    score = length_score(length, config)
    assert 0.0 <= score <= 1.0
    towards = length + 1 if length < low else length - 1 if length > low + span else length
    assert length_score(towards, config) >= score


def test_length_counts_words_or_characters(build: Build) -> None:
    assert one(build, {"length": {"min": 2, "max": 2}}, "two words") == 1.0
    assert one(build, {"length": {"unit": "Characters", "min": 9, "max": 9}}, "two words") == 1.0

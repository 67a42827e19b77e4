"""The scalar types: what they take, what they refuse, and what they mean."""

from __future__ import annotations

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rlhf_operator.api.base import Model, cel_name, presence_rule, to_camel
from rlhf_operator.api.scalars import Between, ColumnOrColumns, DecimalText, Digest, Duration, Quantity, RelativePath


@pytest.mark.parametrize(
    ("snake", "camel"),
    [
        ("micro_batch_size", "microBatchSize"),
        ("max_gpu_hours", "maxGPUHours"),
        ("price_per_gpu_hour", "pricePerGPUHour"),
        ("gpu_hours", "gpuHours"),
        ("min_kl", "minKL"),
        ("min_distinct_n", "minDistinctN"),
        ("llm_judge", "llmJudge"),
        ("lambda_", "lambda"),
        ("from_", "from"),
    ],
)
def test_names_are_spelt_as_kubernetes_spells_them(snake: str, camel: str) -> None:
    assert to_camel(snake) == camel


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("500ms", 0.5), ("0s", 0), ("1h1m1s1ms", 3661.001)]
)
def test_a_duration_knows_its_seconds(text: str, seconds: float) -> None:
    duration = TypeAdapter(Duration).validate_python(text)
    assert duration.seconds == pytest.approx(seconds)
    assert duration.timedelta.total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "1d", "5 minutes", "-1s", "1.5h", "1h2h3h4h5h", "123456s", "1m\n"])
def test_what_gep_2257_does_not_know_is_no_duration(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(text)


@given(st.lists(st.tuples(st.integers(0, 99_999), st.sampled_from(["h", "m", "s", "ms"])), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    text = "".join(f"{number}{unit}" for number, unit in parts)
    duration = TypeAdapter(Duration).validate_python(text)
    assert duration.seconds == pytest.approx(sum(number * units[unit] for number, unit in parts))
    assert TypeAdapter(Duration).dump_json(duration) == f'"{text}"'.encode()


def test_a_bounded_duration_says_what_is_wanted() -> None:
    bounded = TypeAdapter(Annotated[Duration, Between("30s", "24h")])
    assert bounded.validate_python("30s") == "30s"
    with pytest.raises(ValidationError, match="between 30s and 24h"):
        bounded.validate_python("29s")


@pytest.mark.parametrize(("given_", "kept"), [(8, "8"), ("500m", "500m"), ("10Gi", "10Gi"), ("1e3", "1e3")])
def test_a_quantity_may_be_a_number(given_: object, kept: str) -> None:
    assert TypeAdapter(Quantity).validate_python(given_) == kept


@pytest.mark.parametrize("value", ["ten", "", "1 Gi", True, None, "1" * 65])
def test_what_is_no_quantity_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Quantity).validate_python(value)


@pytest.mark.parametrize("path", ["/etc/passwd", "..", "a/../../b", "a/.."])
def test_a_path_stays_inside(path: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RelativePath).validate_python(path)


@pytest.mark.parametrize("path", ["", "a", "a/b.jsonl", "a/..b", "with space/ü"])
def test_a_path_inside_is_taken(path: str) -> None:
    assert TypeAdapter(RelativePath).validate_python(path) == path


@pytest.mark.parametrize("value", ["prompt", ["instruction", "input"]])
def test_a_prompt_is_a_column_or_several(value: object) -> None:
    assert TypeAdapter(ColumnOrColumns).validate_python(value) == value


@pytest.mark.parametrize("value", ["", [], [""], 3, {"a": 1}, True, ["a"] * 17])
def test_a_prompt_is_nothing_else(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ColumnOrColumns).validate_python(value)


@pytest.mark.parametrize("value", ["sha256:" + "0" * 63, "sha256:" + "G" * 64, "md5:" + "0" * 64, "0" * 64])
def test_a_digest_is_whole(value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Digest).validate_python(value)


@pytest.mark.parametrize("value", ["-1", "1e9", "1,5", "", "."])
def test_money_is_a_plain_decimal(value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(DecimalText).validate_python(value)


class Choice(Model):
    one_of = ("left_side", "right")

    left_side: int | None = None
    """Left."""
    right: int | None = None
    """Right."""


@pytest.mark.parametrize("value", [{}, {"leftSide": 1, "right": 2}])
def test_exactly_one_choice_is_set(value: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="set exactly one of leftSide, right"):
        Choice.model_validate(value)


def test_the_one_of_rule_comes_first_and_names_the_choices() -> None:
    (rule,) = Choice.all_rules()
    assert rule.rule == "(has(self.leftSide) ? 1 : 0) + (has(self.right) ? 1 : 0) == 1"
    assert rule.message == "set exactly one of leftSide, right"


def test_cels_own_words_are_escaped() -> None:
    assert cel_name("namespace") == "__namespace__"
    rule = presence_rule("namespace", "create a new one")
    assert rule.rule == "has(self.__namespace__) == has(oldSelf.__namespace__)"
    assert rule.field_path == ".namespace"


def test_models_do_not_change_and_know_their_fields() -> None:
    choice = Choice(right=1)
    with pytest.raises(ValidationError):
        choice.right = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Choice.model_validate({"right": 1, "wrong": 2})
    assert choice.dump() == {"right": 1}

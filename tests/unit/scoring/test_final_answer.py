from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_scoring.graders.final_answer import answer_number, same_answer, stated_answer


@pytest.mark.parametrize(
    ("reference", "response", "same"),
    [
        ("so 48+24=72\n#### 72", "She sold 48 and then 24.\n#### 72", True),
        ("#### 72", "#### 27", False),
        ("#### 72", "I think the answer is 72.", True),
        ("#### 72", "It was 72 clips, of which 5 in May", False),
        ("#### 72", "48 + 24 = 72", True),
        ("#### 1,234", "#### 1234", True),
        ("#### 1,234", "in all $1,234.00", True),
        ("#### 18", "#### $18 dollars", True),
        ("#### 18", "The answer is $18.00 per day", True),
        ("#### -5", "the answer is −5", True),
        ("#### 5", "#### -5", False),
        ("#### 5", "10-5", True),
        ("#### 0.5", "the answer is 1/2", True),
        ("#### 0.5", "the answer is .5", True),
        ("#### 10", r"Thus \boxed{10}. Check: 3", True),
        ("#### 10", r"Thus \boxed{\frac{1}{2}}", False),
        ("#### 7", "#### 3\nWait, no.\n#### 7", True),
        ("#### 7", "the answer is 3 + 4 = 7", True),
        ("7", "7 apples", True),
        ("#### 50", "50%", True),
        ("#### 1000", "1e3", True),
        ("#### 3", "x3", False),
        ("#### 3", "", False),
        ("#### 3", "no idea", False),
        ("#### 2", "on 1/2/2020", False),
        ("Paris", "The answer is paris.", True),
        ("Paris", "Berlin\nParis", True),
        ("Paris in 1990", "1990", False),
        ("yes", "#### Yes!", True),
        ("yes", "#### no", False),
    ],
)
def test_answers_are_compared_as_numbers_or_as_text(reference: str, response: str, same: bool) -> None:
    assert same_answer(reference, response) is same


def test_a_boxed_answer_may_hold_braces() -> None:
    assert stated_answer(r"so \boxed{f(x) = \{1\}} holds") == r"f(x) = \{1\}"
    assert stated_answer(r"so \boxed{1 is never closed") is None


@given(st.integers(-(10**15), 10**15))
def test_any_integer_is_found_with_and_without_separators(value: int) -> None:
    assert answer_number(f"#### {value:,}") == value
    assert answer_number(f"first 3, and in the end {value}") == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4))
def test_any_decimal_is_found_exactly(value: object) -> None:
    assert answer_number(f"the answer is {value:f}") == Fraction(str(value))  # type: ignore[str-bytes-safe]


@given(st.text(max_size=300))
def test_no_text_breaks_the_comparison(text: str) -> None:
    assert same_answer("#### 3", text) in {True, False}
    assert same_answer(text or "x", text or "x") in {True, False}


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    [
        "9" * 100_000,
        "1e999",
        "1/0",
        "," * 50_000,
        "#### " + "1," * 20_000,
        "-" * 50_000,
        "answer:" + " " * 50_000,
        "answer is " * 9_000,
    ],
)
def test_hostile_numbers_end_quickly(text: str) -> None:
    assert same_answer("#### 3", text) is False

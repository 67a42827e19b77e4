"""The grader of final answers on GSM8K's own worked solutions: every one is right, and none that was changed is."""

import json
import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from rlhf_scoring.graders.final_answer import same_answer

BESIDE = Path(__file__).resolve().parents[4] / "shared/data"
_LAST_LINE = re.compile(r"#### (-?[\d,]+(?:\.\d+)?)\s*$")


@pytest.fixture(scope="module")
def solutions() -> list[str]:
    path = Path(os.environ.get("RLHF_DATA", BESIDE)) / "gsm8k_train_2000.jsonl"
    if not path.is_file():
        pytest.skip("real data is absent: gsm8k_train_2000.jsonl is neither in ../shared/data nor where RLHF_DATA says")
    found = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    assert len(found) == 2000
    return found


def said(solution: str) -> str:
    match = _LAST_LINE.search(solution)
    assert match is not None, solution
    return match[1]


def number(solution: str) -> Fraction:
    return Fraction(said(solution).replace(",", ""))


def with_answer(solution: str, answer: str) -> str:
    return _LAST_LINE.sub(f"#### {answer}", solution)


def plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0")


RIGHT: dict[str, Callable[[str], str]] = {
    "as it is": lambda s: s,
    "without separators": lambda s: with_answer(s, said(s).replace(",", "")),
    "with separators": lambda s: with_answer(s, f"{int(number(s)):,}") if number(s).denominator == 1 else s,
    "with decimals": lambda s: with_answer(s, plain(number(s)) + (".00" if number(s).denominator == 1 else "00")),
    "in dollars": lambda s: with_answer(s, f"${said(s)}") if number(s) >= 0 else s,
    "with a full stop": lambda s: with_answer(s, f"{said(s)}."),
    "with a unit": lambda s: with_answer(s, f"{said(s)} kilometers"),
    "in per cent": lambda s: with_answer(s, f"{said(s)}%"),
    "as a fraction": lambda s: with_answer(s, f"{2 * number(s).numerator}/{2 * number(s).denominator}"),
    "boxed": lambda s: f"So it is \\boxed{{{said(s)}}}.",
    "as a sentence": lambda s: f"The answer is {said(s)}.",
    "corrected at the end": lambda s: with_answer(s, "123456789") + f"\nNo, that is wrong.\n#### {said(s)}",
}

WRONG: dict[str, Callable[[str], str]] = {
    "one more": lambda s: with_answer(s, plain(number(s) + 1)),
    "one less": lambda s: with_answer(s, plain(number(s) - 1)),
    "a first digit changed": lambda s: with_answer(
        s, re.sub(r"\d", lambda d: str((int(d[0]) + 1) % 10), said(s), count=1)
    ),
    "a last digit changed": lambda s: with_answer(s, said(s)[:-1] + str((int(said(s)[-1]) + 5) % 10)),
    "a digit more": lambda s: with_answer(s, plain(number(s)) + "7"),
    "ten times as much": lambda s: with_answer(s, plain(number(s) * 10)),
    "a tenth": lambda s: with_answer(s, plain(number(s) / 10)),
    "a hundredth": lambda s: with_answer(s, plain(number(s) / 100)),
    "a half more": lambda s: with_answer(s, plain(number(s) + Fraction(1, 2))),
    "the other sign": lambda s: with_answer(s, plain(-number(s))),
    "another sign, typeset": lambda s: with_answer(s, "−" + plain(abs(number(s)))) if number(s) > 0 else "no",
    "one over it": lambda s: with_answer(s, f"1/{abs(int(number(s))) + 2}"),
    "taken back at the end": lambda s: s + f"\nNo, that is wrong.\n#### {plain(number(s) + 3)}",
    "another number behind it": lambda s: f"It is {said(s)}, and of those {plain(number(s) + 2)}",
    "no number": lambda s: with_answer(s, "the same as before"),
    "a refusal": lambda s: "I'm sorry, but I can't help with that.",
    "nothing": lambda s: "",
}


@pytest.mark.parametrize("spoken", RIGHT.values(), ids=RIGHT.keys())
def test_every_worked_solution_is_right_however_its_answer_is_written(
    solutions: list[str], spoken: Callable[[str], str]
) -> None:
    assert [spoken(each) for each in solutions if not same_answer(each, spoken(each))] == []


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG.keys())
def test_no_changed_solution_is_right(solutions: list[str], changed: Callable[[str], str]) -> None:
    # Zero times ten, and zero with a sign, are zero.
    cases = [each for each in solutions if number(each) != 0]
    assert len(cases) > 1_980
    assert [changed(each) for each in cases if same_answer(each, changed(each))] == []

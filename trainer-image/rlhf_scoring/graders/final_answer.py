"""Final answers: taking the answer out of a worked solution, and comparing it as GSM8K does."""

from decimal import Decimal
from fractions import Fraction

import regex

from rlhf_operator.api.shared import FinalAnswerGrader
from rlhf_scoring.judge import Judgement, Missing, Row, TextGrader, digest_of, text_column

_TAIL_CHARACTERS = 20_000
_MAX_DIGITS = 60

_NUMBER = regex.compile(
    r"""(?<![\w.])
    (?P<sign>[-−–+]\s?)? [$€£¥]?\s?(?P<inner>[-−])?
    (?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?
    (?(whole)(?P<decimals>\.\d+)?|(?P<bare>\.\d+))
    (?P<exponent>[eE][-+]?\d{1,3}(?!\w))?
    (?:\s?/\s?(?P<under>\d+)(?![\d/]))?""",
    regex.VERBOSE,
)
_MARKER = regex.compile(r"####[ \t]*([^\n]*)")
_PHRASE = regex.compile(r"\banswer\b(?:\s+is\b|\s*[:=])\s*:?\s*([^\n]*)", regex.IGNORECASE)
_BOXED = "\\boxed{"


class FinalAnswer(TextGrader):
    """1 when the response's final answer equals the row's, else 0 (Cobbe et al. 2021, section 2)."""

    def __init__(self, config: FinalAnswerGrader) -> None:
        super().__init__(digest_of("final-answer/1", config.dump()))
        self._column = config.answer_column

    def grade(self, response: str, row: Row) -> Judgement:
        """Compare; a row without a reference has no score."""
        reference = text_column(row, self._column)
        if isinstance(reference, Missing):
            return reference
        return float(same_answer(reference, response))


def same_answer(reference: str, response: str) -> bool:
    """Whether both end in the same answer: as exact numbers when the reference is one, else as text."""
    expected = _reference_number(reference)
    if expected is not None:
        return answer_number(response) == expected
    given = stated_answer(response)
    return _plain(given if given is not None else _last_line(response)) == _plain(stated_answer(reference) or reference)


def answer_number(text: str) -> Fraction | None:
    """The number a solution ends in: the one it marks as its answer, else the last in the text; None without one."""
    text = text[-_TAIL_CHARACTERS:]
    stated = stated_answer(text)
    if stated is not None:
        return _first_number(stated.rsplit("=", 1)[-1])
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return None if last is None else _value(last)


def stated_answer(text: str) -> str | None:
    r"""What the text itself marks as its answer: after the last `####`, in the last `\boxed{}`, or 'answer is'."""
    for find in (_after_marker, _boxed, _after_phrase):
        found = find(text[-_TAIL_CHARACTERS:])
        if found is not None:
            return found.strip()
    return None


def _after_marker(text: str) -> str | None:
    found: list[str] = _MARKER.findall(text)
    return found[-1] if found else None


def _after_phrase(text: str) -> str | None:
    found: list[str] = _PHRASE.findall(text)
    return found[-1] if found else None


def _boxed(text: str) -> str | None:
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth = 1
    begin = start + len(_BOXED)
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at]
    return None


def _reference_number(reference: str) -> Fraction | None:
    """The reference as a number, when it is one: text that merely contains digits is compared as text."""
    stated = stated_answer(reference)
    text = (reference if stated is None else stated).strip()
    match = _NUMBER.match(text)
    return None if match is None else _value(match)


def _first_number(text: str) -> Fraction | None:
    match = _NUMBER.search(text)
    return None if match is None else _value(match)


def _value(match: "regex.Match[str]") -> Fraction | None:
    whole = (match["whole"] or "0").replace(",", "")
    decimals = match["decimals"] or match["bare"] or ""
    if len(whole) + len(decimals) > _MAX_DIGITS or len(match["under"] or "") > _MAX_DIGITS:
        return None
    value = Fraction(Decimal(whole + decimals + (match["exponent"] or "")))
    if match["under"] and int(match["under"]) != 0:
        value /= int(match["under"])
    negative = (match["sign"] or "").strip() in {"-", "−", "–"} or match["inner"] is not None
    return -value if negative else value


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,:;!?\"'`*")

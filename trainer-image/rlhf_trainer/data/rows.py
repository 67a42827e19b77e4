"""What a row means: columns applied, types and judgements checked. Pure; reading and storing are elsewhere."""

from collections import Counter as Votes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api.shared import Columns, Format
from rlhf_scoring.judge import ROW_NUMBER
from rlhf_trainer.errors import ConfigError

from .cells import Unusable, check_encodable, prompt_of, shown, string_of, text_of, truth_of, verdict_of
from .reasons import DropReason

__all__ = ["Row", "Unusable", "check_format", "meaning"]

SUPPORTED = (Format.PROMPTS, Format.DEMONSTRATIONS, Format.PAIRS, Format.BINARY)
_TIE = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row that passed every check of its own."""

    number: int
    prompt: str
    response: str | None
    """Demonstrations: what to learn."""
    chosen: str | None
    """Pairs: the better response. Binary: a response that was judged good."""
    rejected: str | None
    """Pairs: the other response. Binary: a response that was judged bad."""
    answer: str | None
    fields: dict[str, Any]
    """What graders see: the source's columns, the row's number, and prompt, response, chosen, rejected, answer."""


def check_format(name: str, wanted: Format, columns: Columns) -> None:
    """Raise ConfigError for a data set whose format or columns can't be used."""
    if wanted not in SUPPORTED:
        raise ConfigError(
            f"{name}: format {wanted} is not supported yet; use one of {', '.join(SUPPORTED)}", reason="NotSupportedYet"
        )
    if columns.responses is not None and len(columns.responses) != 2:
        raise ConfigError(f"{name}: columns.responses names {len(columns.responses)} columns; a pair has two")


def meaning(wanted: Format, columns: Columns, number: int, source: Mapping[str, Any]) -> Row:
    """Apply the columns to one source row. Raises Unusable."""
    prompt = prompt_of(columns, source)
    chosen, rejected = _judged(wanted, columns, source)
    response = _response(wanted, columns, source, chosen)
    answer = None if columns.answer is None else _answer(source, columns.answer)
    logical = {"prompt": prompt, "response": response, "chosen": chosen, "rejected": rejected, "answer": answer}
    fields = {name: text for name, text in logical.items() if text is not None} | dict(source) | {ROW_NUMBER: number}
    row = Row(number, prompt, response, chosen, rejected, answer, fields)
    for text in (prompt, response, chosen, rejected, answer):
        if text is not None:
            check_encodable(text)
    return row


def _judged(wanted: Format, columns: Columns, source: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Chosen and rejected, as far as the format wants them or the columns name them."""
    if columns.responses is not None:
        first, second = (text_of(source, name) for name in columns.responses)
        verdict = _verdict(columns, source)
        return (first, second) if verdict == 1 else (second, first)
    if wanted is Format.BINARY:
        return _verdict_on_one(columns, source)
    if wanted is Format.PAIRS:
        chosen, rejected = text_of(source, columns.chosen or "chosen"), text_of(source, columns.rejected or "rejected")
        if chosen == rejected:
            raise Unusable(DropReason.SAME_RESPONSES, f"both responses are {shown(chosen)}")
        return chosen, rejected
    if columns.chosen is not None:
        return text_of(source, columns.chosen), None
    return None, None


def _verdict_on_one(columns: Columns, source: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """A good response in the first place, a bad one in the second."""
    text = text_of(source, columns.response or "response")
    name = columns.label or "label"
    if name not in source:
        raise Unusable(DropReason.MISSING_COLUMN, f"no column {name}")
    if source[name] is None:
        raise Unusable(DropReason.NO_JUDGEMENT, f"{name} is null: nobody judged the response")
    return (text, None) if truth_of(name, source[name]) else (None, text)


def _response(wanted: Format, columns: Columns, source: Mapping[str, Any], chosen: str | None) -> str | None:
    if wanted is not Format.DEMONSTRATIONS:
        return None
    return chosen if chosen is not None else text_of(source, columns.response or "response")


def _verdict(columns: Columns, source: Mapping[str, Any]) -> int:
    """1 or 2: the response that is preferred."""
    votes = _votes(columns, source)
    winner, count = Votes(votes).most_common(1)[0]
    if 2 * count <= len(votes):
        raise Unusable(DropReason.NO_MAJORITY, f"the verdicts are {', '.join(map(str, votes))}")
    if winner == _TIE:
        raise Unusable(DropReason.TIE, f"the verdicts are {', '.join(map(str, votes))}")
    first, second = (source[name] for name in columns.responses or ())
    if first == second:
        raise Unusable(DropReason.SAME_RESPONSES, f"both responses are {shown(first)}")
    return winner


def _votes(columns: Columns, source: Mapping[str, Any]) -> list[int]:
    """The verdicts of those who judged: null is none."""
    names = columns.annotators or (columns.label or "label",)
    missing = [name for name in names if name not in source]
    if missing:
        raise Unusable(DropReason.MISSING_COLUMN, f"no column {missing[0]}")
    votes = [verdict_of(name, source[name]) for name in names if source[name] is not None]
    if not votes:
        raise Unusable(DropReason.NO_JUDGEMENT, f"{', '.join(names)}: nobody compared the responses")
    return votes


def _answer(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    text = string_of(source, name, DropReason.NON_STRING_ANSWER)
    if not text.strip():
        raise Unusable(DropReason.EMPTY_ANSWER, f"{name} is empty")
    return text

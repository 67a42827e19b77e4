"""What a row means: columns applied, types and judgements checked. Pure; reading and storing are elsewhere."""

from collections import Counter as Votes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api.shared import Columns, Format
from rlhf_scoring.judge import ROW_NUMBER
from rlhf_trainer.errors import ConfigError

from .reasons import DropReason

SUPPORTED = (Format.PROMPTS, Format.DEMONSTRATIONS, Format.PAIRS)
_TIE = 0
_JOIN = "\n\n"
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Row:
    """A row that passed every check of its own."""

    number: int
    prompt: str
    response: str | None
    """Demonstrations: what to learn."""
    chosen: str | None
    rejected: str | None
    answer: str | None
    fields: dict[str, Any]
    """What graders see: the source's columns, the row's number, and prompt, response, chosen, rejected, answer."""


class Unusable(Exception):
    """A row that can't be used."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


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
    prompt = _prompt(columns, source)
    chosen, rejected = _judged(wanted, columns, source)
    response = _response(wanted, columns, source, chosen)
    answer = None if columns.answer is None else _answer(source, columns.answer)
    logical = {"prompt": prompt, "response": response, "chosen": chosen, "rejected": rejected, "answer": answer}
    fields = {name: text for name, text in logical.items() if text is not None} | dict(source) | {ROW_NUMBER: number}
    row = Row(number, prompt, response, chosen, rejected, answer, fields)
    for text in (prompt, response, chosen, rejected, answer):
        if text is not None:
            _check_encodable(text)
    return row


def _prompt(columns: Columns, source: Mapping[str, Any]) -> str:
    if isinstance(columns.prompt, str):
        parts = [_string(source, columns.prompt, DropReason.NON_STRING_PROMPT)]
    else:
        present = [name for name in columns.prompt if source.get(name) is not None]
        if not present:
            raise Unusable(DropReason.MISSING_COLUMN, f"none of the prompt's columns {', '.join(columns.prompt)}")
        parts = [_string(source, name, DropReason.NON_STRING_PROMPT) for name in present]
    prompt = _JOIN.join(part for part in parts if part.strip())
    if not prompt:
        raise Unusable(DropReason.EMPTY_PROMPT, "the prompt is empty")
    return prompt


def _judged(wanted: Format, columns: Columns, source: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Chosen and rejected, as far as the format wants them or the columns name them."""
    if columns.responses is not None:
        first, second = (_text(source, name) for name in columns.responses)
        verdict = _verdict(columns, source)
        return (first, second) if verdict == 1 else (second, first)
    if wanted is Format.PAIRS:
        chosen, rejected = _text(source, columns.chosen or "chosen"), _text(source, columns.rejected or "rejected")
        if chosen == rejected:
            raise Unusable(DropReason.SAME_RESPONSES, f"both responses are {_shown(chosen)}")
        return chosen, rejected
    if columns.chosen is not None:
        return _text(source, columns.chosen), None
    return None, None


def _response(wanted: Format, columns: Columns, source: Mapping[str, Any], chosen: str | None) -> str | None:
    if wanted is not Format.DEMONSTRATIONS:
        return None
    return chosen if chosen is not None else _text(source, columns.response or "response")


def _verdict(columns: Columns, source: Mapping[str, Any]) -> int:
    """1 or 2: the response that is preferred."""
    names = columns.annotators or (columns.label or "label",)
    votes = [_vote(source, name) for name in names]
    winner, count = Votes(votes).most_common(1)[0]
    if 2 * count <= len(votes):
        raise Unusable(DropReason.NO_MAJORITY, f"the verdicts are {', '.join(map(str, votes))}")
    if winner == _TIE:
        raise Unusable(DropReason.TIE, f"the verdicts are {', '.join(map(str, votes))}")
    first, second = (source[name] for name in columns.responses or ())
    if first == second:
        raise Unusable(DropReason.SAME_RESPONSES, f"both responses are {_shown(first)}")
    return winner


def _vote(source: Mapping[str, Any], name: str) -> int:
    if name not in source:
        raise Unusable(DropReason.MISSING_COLUMN, f"no column {name}")
    value = source[name]
    # true is 1 in Python, and says nothing about which response; tables made elsewhere hold 1.0 for 1.
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1, 2):
        raise Unusable(DropReason.BAD_LABEL, f"{name} is {_shown(value)}; it must be 0, 1 or 2")
    return int(value)


def _answer(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    text = _string(source, name, DropReason.NON_STRING_ANSWER)
    if not text.strip():
        raise Unusable(DropReason.EMPTY_ANSWER, f"{name} is empty")
    return text


def _text(source: Mapping[str, Any], name: str) -> str:
    text = _string(source, name, DropReason.NON_STRING_RESPONSE)
    if not text.strip():
        raise Unusable(DropReason.EMPTY_RESPONSE, f"{name} is empty")
    return text


def _string(source: Mapping[str, Any], name: str, otherwise: DropReason) -> str:
    if name not in source:
        raise Unusable(DropReason.MISSING_COLUMN, f"no column {name}")
    value = source[name]
    if not isinstance(value, str):
        raise Unusable(otherwise, f"{name} is {_shown(value)} ({type(value).__name__}), not a string")
    return value


def _check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable(DropReason.INVALID_TEXT, f"a lone surrogate at character {error.start}") from None


def _shown(value: Any) -> str:
    return repr(value)[:_SHOWN]

"""Cells of a source row, taken by column name: each usable, or why not. Pure; what rows mean is elsewhere."""

from collections.abc import Mapping
from typing import Any

from rlhf_operator.api.shared import Columns

from .reasons import DropReason

_JOIN = "\n\n"
_SHOWN = 60


class Unusable(Exception):
    """A row that can't be used."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def prompt_of(columns: Columns, source: Mapping[str, Any]) -> str:
    """The prompt: one column, or several joined by a blank line. Raises Unusable."""
    if isinstance(columns.prompt, str):
        parts = [string_of(source, columns.prompt, DropReason.NON_STRING_PROMPT)]
    else:
        present = [name for name in columns.prompt if source.get(name) is not None]
        if not present:
            raise Unusable(DropReason.MISSING_COLUMN, f"none of the prompt's columns {', '.join(columns.prompt)}")
        parts = [string_of(source, name, DropReason.NON_STRING_PROMPT) for name in present]
    prompt = _JOIN.join(part for part in parts if part.strip())
    if not prompt:
        raise Unusable(DropReason.EMPTY_PROMPT, "the prompt is empty")
    return prompt


def text_of(source: Mapping[str, Any], name: str) -> str:
    """A response that is not empty. Raises Unusable."""
    text = string_of(source, name, DropReason.NON_STRING_RESPONSE)
    if not text.strip():
        raise Unusable(DropReason.EMPTY_RESPONSE, f"{name} is empty")
    return text


def string_of(source: Mapping[str, Any], name: str, otherwise: DropReason) -> str:
    """A column that must be a string. Raises Unusable, `otherwise` being the reason for another type."""
    if name not in source:
        raise Unusable(DropReason.MISSING_COLUMN, f"no column {name}")
    value = source[name]
    if not isinstance(value, str):
        raise Unusable(otherwise, f"{name} is {shown(value)} ({type(value).__name__}), not a string")
    return value


def verdict_of(name: str, value: Any) -> int:
    """0, 1 or 2. Raises Unusable."""
    # true is 1 in Python, and says nothing about which response; tables made elsewhere hold 1.0 for 1.
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1, 2):
        raise Unusable(DropReason.BAD_LABEL, f"{name} is {shown(value)}; it must be 0, 1 or 2")
    return int(value)


def truth_of(name: str, value: Any) -> float:
    """1 for true, 0 for false: a Binary row's verdict. Raises Unusable."""
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise Unusable(DropReason.BAD_LABEL, f"{name} is {shown(value)}; it must be true or false")
    return float(value)


def check_encodable(text: str) -> None:
    """Raise Unusable for a text that no encoding can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable(DropReason.INVALID_TEXT, f"a lone surrogate at character {error.start}") from None


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    return repr(value)[:_SHOWN]

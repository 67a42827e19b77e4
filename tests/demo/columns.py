"""Which column of a user's file is what: found by the usual names, or as the user says. No file is read here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

from rlhf_operator.api.shared import Columns

_LISTS = ("prompt", "responses", "annotators")
_KNOWN = ("prompt", "chosen", "rejected", "responses", "annotators", "label")
USAGE = (
    "Each row is a JSON object with a prompt (`prompt`, or `instruction` and `input`) and two answers: `chosen` and "
    "`rejected`, or `response1` and `response2` with `annotator1`, `annotator2` … (0 tie, 1 first, 2 second) or "
    "`label`. Other names: DATA_COLUMNS=prompt=question+context,responses=a+b,annotators=judge1+judge2"
)


class RowsError(Exception):
    """The user's file or its columns can't be used; the message says what to do."""


def parse(text: str) -> dict[str, list[str]]:
    """`prompt=a+b,chosen=c` as {what: columns}. Raises RowsError."""
    found: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        what, sign, names = part.partition("=")
        columns = [name.strip() for name in names.split("+") if name.strip()]
        if not sign or what not in _KNOWN or not columns:
            raise RowsError(f"DATA_COLUMNS: {part!r} is not one of {', '.join(f'{name}=…' for name in _KNOWN)}")
        if what in found:
            raise RowsError(f"DATA_COLUMNS names {what} twice")
        if what not in _LISTS and len(columns) > 1:
            raise RowsError(f"DATA_COLUMNS: {what} is one column, not {len(columns)}")
        found[what] = columns
    return found


def choose(present: set[str], given: Mapping[str, list[str]]) -> Columns:
    """The columns to use, from those that the file has and those that the user named. Raises RowsError."""
    unknown = sorted({name for names in given.values() for name in names} - present)
    if unknown:
        raise RowsError(f"no row has the column {', '.join(unknown)}; the columns are {', '.join(sorted(present))}")
    chosen: dict[str, object] = {"prompt": _prompt(present, given)}
    chosen |= _answers(present, given)
    try:
        return Columns.model_validate(chosen)
    except ValidationError as error:
        raise RowsError(f"the columns do not go together: {error.errors()[0]['msg']}. {USAGE}") from error


def _prompt(present: set[str], given: Mapping[str, list[str]]) -> str | list[str]:
    names = list(given.get("prompt", ()))
    if not names:
        if "prompt" in present:
            names = ["prompt"]
        elif "instruction" in present:
            names = ["instruction", *(["input"] if "input" in present else [])]
        else:
            raise RowsError(f"no column for the prompt among {', '.join(sorted(present))}. {USAGE}")
    return names[0] if len(names) == 1 else names


def _answers(present: set[str], given: Mapping[str, list[str]]) -> dict[str, object]:
    if "responses" not in given and ("chosen" in given or {"chosen", "rejected"} <= present):
        return {
            "chosen": given.get("chosen", ["chosen"])[0],
            "rejected": given.get("rejected", ["rejected"])[0],
        }
    responses = given.get("responses") or ["response1", "response2"]
    if not set(responses) <= present:
        raise RowsError(f"no columns for two answers among {', '.join(sorted(present))}. {USAGE}")
    annotators = given.get("annotators") or sorted(
        (name for name in present if re.fullmatch(r"annotator_?\d+", name)), key=lambda name: (len(name), name)
    )
    if "label" in given:
        return {"responses": responses, "label": given["label"][0]}
    if annotators:
        return {"responses": responses, "annotators": annotators}
    if "label" in present:
        return {"responses": responses, "label": "label"}
    raise RowsError(f"nothing says which of {' and '.join(responses)} is better. {USAGE}")

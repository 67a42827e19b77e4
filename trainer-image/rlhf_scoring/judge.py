"""What every scorer looks like from inside: a judge of texts. No judge lives here."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

ROW_NUMBER = "__row__"
"""Key under which a row carries its number in the source (from 1), so that a failure can name it."""

TURNS = "__turns__"
"""Key under which a row may carry the conversation that its prompt is the text of: a list of {role, content}."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a text has no score."""

    reason: str
    timed_out: bool = False
    failed: bool = False
    """The grader raised, took too long or gave no number: whether that ends the run is `onError`'s to say."""


Judgement = float | Missing


class Judge(Protocol):
    """Scores texts. Same texts, same scores; a score is finite or Missing."""

    @property
    def digest(self) -> str:
        """`sha256:…` over everything that decides the score: configuration, code, model."""
        ...

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Return one judgement per response, in order."""
        ...

    def close(self) -> None:
        """Free what the judge holds; it can't be used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score, and what kind of violation it is when the judge says so."""

    score: float
    category: str = ""


@runtime_checkable
class Categorizer(Protocol):
    """A judge that also names what it found."""

    def verdicts(
        self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]
    ) -> list["Verdict | Missing"]:
        """Return one verdict per response, in order."""
        ...


@runtime_checkable
class Comparer(Protocol):
    """A judge that holds two responses to one prompt against each other."""

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str], rows: Sequence[Row]
    ) -> list[Judgement]:
        """Return per prompt 1 when a wins, 0 when b does, 0.5 for neither."""
        ...


@runtime_checkable
class Reachable(Protocol):
    """A judge behind an address."""

    def check(self) -> None:
        """Ask whether it answers, once. Raises ScorerConfigError, or JudgeAway when coming again may help."""
        ...


class TextGrader:
    """Base of the graders that judge one text at a time inside this process."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def grade(self, response: str, row: Row) -> Judgement:
        """Return the judgement of one response."""
        raise NotImplementedError

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Grade each response by itself."""
        return [self._graded(response, row) for response, row in zip(responses, rows, strict=True)]

    def _graded(self, response: str, row: Row) -> Judgement:
        try:
            return self.grade(response, row)
        except Exception as error:
            return Missing(f"row {row_number(row)}: {type(error).__name__}: {error}", failed=True)

    def close(self) -> None:
        """Nothing is held."""


def digest_of(*parts: object) -> str:
    """`sha256:` over the canonical JSON of the parts."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def version_digest(version: str, dimension: str) -> str:
    """Digest of one dimension of a RewardModel's version: the same in process and by URL, so that a journal is."""
    return digest_of("reward-model-version/1", version, dimension)


def row_number(row: Row) -> int:
    """The row's number in its source; 0 when it carries none."""
    number = row.get(ROW_NUMBER, 0)
    return number if isinstance(number, int) else 0


def plain_row(row: Row) -> Any:
    """A row's columns as JSON has them: dates as text, numbers that are none as null."""
    columns = {key: value for key, value in row.items() if key not in (ROW_NUMBER, TURNS)}
    return json.loads(json.dumps(columns, default=str), parse_constant=lambda _: None)


def text_column(row: Row, column: str) -> str | Missing:
    """The text in a column; numbers count as their text, anything else is missing."""
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return Missing(f"row {row_number(row)} has no text in column {column!r}")

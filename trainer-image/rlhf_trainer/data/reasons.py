"""Why a row is left out, and what is remembered of it: the words that reports, messages and tests share."""

from enum import StrEnum

from pydantic import Field

from rlhf_operator.api.base import Model
from rlhf_operator.api.result import DatasetRecord

EXAMPLES_KEPT = 10
_DETAIL_CHARACTERS = 200


class DropReason(StrEnum):
    """Why a row is not used. A row counts under the first that applies."""

    NOT_JSON = "NotJSON"
    """The line can't be parsed (NaN and Infinity are not JSON), or the row is not an object."""
    ROW_TOO_LARGE = "RowTooLarge"
    INVALID_TEXT = "InvalidText"
    """A text holds a lone surrogate, which no encoding can carry."""
    MISSING_COLUMN = "MissingColumn"
    NON_STRING_PROMPT = "NonStringPrompt"
    EMPTY_PROMPT = "EmptyPrompt"
    NON_STRING_RESPONSE = "NonStringResponse"
    EMPTY_RESPONSE = "EmptyResponse"
    NON_STRING_ANSWER = "NonStringAnswer"
    EMPTY_ANSWER = "EmptyAnswer"
    BAD_LABEL = "BadLabel"
    """A judgement is not one of the values that its format has."""
    NO_JUDGEMENT = "NoJudgement"
    """No annotator judged the row, or none of its responses against another."""
    BAD_WEIGHT = "BadWeight"
    UNKNOWN_DIMENSION = "UnknownDimension"
    """The row judges a dimension that the reward model does not have."""
    LOW_AGREEMENT = "LowAgreement"
    """Annotators agree less than minAgreement."""
    TIE = "Tie"
    NO_MAJORITY = "NoMajority"
    SAME_RESPONSES = "SameResponses"
    DUPLICATE = "Duplicate"
    CONTRADICTION = "Contradiction"
    """Another row says the opposite: the same pair the other way round, or another answer to the same prompt."""
    IN_EVALUATION = "InEvaluation"
    """The prompt is in the evaluation set."""
    NEAR_EVALUATION = "NearEvaluation"
    """The prompt is nearly one of the evaluation set."""
    OVERLONG_PROMPT = "OverlongPrompt"
    OVERLONG_RESPONSE = "OverlongResponse"


class Example(Model):
    """One row, for a person to look at."""

    row: int
    """Number of the row in its source, from 1."""
    detail: str


class Tally(Model):
    """How many rows, and the first of them."""

    count: int = 0
    examples: tuple[Example, ...] = ()


class Report(Model):
    """report.json: what became of every row of one data set."""

    key: str
    """Digest of everything that decides the outcome beside the content: another plan's report is never used."""
    ref: str
    record: DatasetRecord
    dropped: dict[DropReason, Tally] = Field(default_factory=dict)
    near_duplicates: Tally = Tally()
    """Rows that are nearly the same as an earlier one. They are kept: which wording is one too many is taste."""
    near_duplicates_checked: int = 0
    """Rows that were looked at for it: the first so many."""
    truncated_prompts: Tally = Tally()
    """Rows whose prompt lost its beginning (overlongPrompt: TruncateLeft)."""
    columns: tuple[str, ...] = ()
    """The columns found in the first rows."""


class Counter:
    """Counts by reason and keeps the first examples."""

    def __init__(self) -> None:
        self._counts: dict[DropReason, int] = {}
        self._examples: dict[DropReason, list[Example]] = {}

    def add(self, reason: DropReason, row: int, detail: str) -> None:
        """Count one row."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        kept = self._examples.setdefault(reason, [])
        if len(kept) < EXAMPLES_KEPT:
            kept.append(example(row, detail))

    def tallies(self) -> dict[DropReason, Tally]:
        """Counts and examples by reason, the most frequent first."""
        ordered = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return {reason: Tally(count=self._counts[reason], examples=tuple(self._examples[reason])) for reason in ordered}


def example(row: int, detail: str) -> Example:
    """An example whose text is short and can be written."""
    return Example(row=row, detail=detail[:_DETAIL_CHARACTERS].encode(errors="replace").decode())


def summary(tallies: dict[DropReason, Tally]) -> str:
    """The counts in one line, each with its first example."""
    return "; ".join(
        f"{reason} {tally.count} (first: row {tally.examples[0].row}: {tally.examples[0].detail})"
        for reason, tally in tallies.items()
    )

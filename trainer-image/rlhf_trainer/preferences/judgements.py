"""One source row of any judged format → a `Judgement` and its texts. Aggregation and pairing are elsewhere. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf_operator.api.plan import PlanDataset
from rlhf_operator.api.shared import Columns, Format
from rlhf_scoring.judge import ROW_NUMBER
from rlhf_trainer.data.cells import Unusable, check_encodable, prompt_of, shown, text_of, truth_of
from rlhf_trainer.data.reasons import DropReason
from rlhf_trainer.data.similarity import key
from rlhf_trainer.errors import ConfigError

from .verdicts import Ranks, number_of, ranks_of

FORMATS = (Format.PAIRS, Format.RANKING, Format.SCALAR, Format.BINARY)
COMPARED = (Format.PAIRS, Format.RANKING)
"""Formats whose rows hold several responses."""

MAX_WEIGHT = 1000.0
_SLICE_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a row: what does not stay in memory."""

    row: int
    prompt: str
    responses: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What graders see beside them: the source's columns and the columns by their meaning. Empty for a model's data."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row without its texts."""

    row: int
    prompt: bytes
    """Key: equal for prompts that differ in white space and Unicode form only."""
    responses: tuple[bytes, ...]
    """Keys, likewise."""
    dimension: str
    weight: float
    slices: dict[str, str]
    verdicts: tuple[Ranks | None, ...] = ()
    """Pairs and Ranking: by annotator, in the order of `annotator_names`."""
    gold: Ranks | None = None
    """Pairs and Ranking: the trusted judgement."""
    value: float | None = None
    """Scalar: the score. Binary: 1 good, 0 bad."""


class RowReader:
    """Reads the rows of one data set."""

    def __init__(
        self, dataset: PlanDataset, dimensions: list[str], slice_columns: list[str], *, keep_fields: bool = False
    ) -> None:
        """Raise ConfigError for a format or columns that hold no judgements. keep_fields: for graders."""
        check_judged_format(dataset)
        self._format = dataset.format
        self._columns = dataset.columns
        self._dimensions = dimensions
        self._keep_fields = keep_fields
        self._slices = _slice_columns(dataset.columns, slice_columns)
        self.annotators = annotator_names(dataset)

    def read(self, number: int, source: Mapping[str, Any]) -> tuple[Judgement, Texts]:
        """Apply the columns to one row. Raises Unusable."""
        columns = self._columns
        prompt = prompt_of(columns, source)
        responses = tuple(text_of(source, name) for name in _response_columns(self._format, columns))
        for text in (prompt, *responses):
            check_encodable(text)
        keys = tuple(key(text) for text in responses)
        if len(keys) > 1 and len(set(keys)) == 1:
            raise Unusable(DropReason.SAME_RESPONSES, f"every response is {shown(responses[0])}")
        judgement = Judgement(
            row=number,
            prompt=key(prompt),
            responses=keys,
            dimension=self._dimension(source),
            weight=self._weight(source),
            slices=self._sliced(source),
            verdicts=self._verdicts(source, len(responses)),
            gold=self._gold(source, len(responses)),
            value=self._value(source),
        )
        return judgement, Texts(number, prompt, responses, self._fields(source, number, prompt))

    def _fields(self, source: Mapping[str, Any], number: int, prompt: str) -> dict[str, Any]:
        if not self._keep_fields:
            return {}
        answer = source.get(self._columns.answer) if self._columns.answer is not None else None
        named = {"prompt": prompt} | ({"answer": answer} if answer is not None else {})
        return named | dict(source) | {ROW_NUMBER: number}

    def _verdicts(self, source: Mapping[str, Any], responses: int) -> tuple[Ranks | None, ...]:
        if self._format not in COMPARED:
            return ()
        if self._columns.responses is None:
            return ((1, 2),)
        verdicts = []
        for name in self.annotators:
            if name not in source:
                raise Unusable(DropReason.MISSING_COLUMN, f"no column {name}")
            verdicts.append(ranks_of(name, source[name], responses))
        if not any(_compares(ranks) for ranks in verdicts):
            raise Unusable(DropReason.NO_JUDGEMENT, f"{', '.join(self.annotators)}: nobody compared the responses")
        return tuple(verdicts)

    def _gold(self, source: Mapping[str, Any], responses: int) -> Ranks | None:
        name = self._columns.gold
        if name is None or self._format not in COMPARED:
            return None
        ranks = ranks_of(name, source.get(name), responses)
        return ranks if _compares(ranks) else None

    def _value(self, source: Mapping[str, Any]) -> float | None:
        if self._format in COMPARED:
            return None
        # A trusted judgement is the better one.
        gold = self._columns.gold
        name = gold if gold is not None and source.get(gold) is not None else self._columns.label or "label"
        if name not in source:
            raise Unusable(DropReason.MISSING_COLUMN, f"no column {name}")
        if source[name] is None:
            raise Unusable(DropReason.NO_JUDGEMENT, f"{name} is null")
        return (truth_of if self._format is Format.BINARY else number_of)(name, source[name])

    def _dimension(self, source: Mapping[str, Any]) -> str:
        name = self._columns.dimension
        if name is None:
            return self._dimensions[0]
        if name not in source:
            raise Unusable(DropReason.MISSING_COLUMN, f"no column {name}")
        value = source[name]
        if value not in self._dimensions:
            raise Unusable(
                DropReason.UNKNOWN_DIMENSION, f"{name} is {shown(value)}, none of {', '.join(self._dimensions)}"
            )
        return str(value)

    def _weight(self, source: Mapping[str, Any]) -> float:
        name = self._columns.weight
        if name is None:
            return 1.0
        value = source.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_WEIGHT:
            raise Unusable(
                DropReason.BAD_WEIGHT, f"{name} is {shown(value)}; it must be above 0 and at most {MAX_WEIGHT:g}"
            )
        return float(value)

    def _sliced(self, source: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        for name in self._slices:
            value = source.get(name)
            if isinstance(value, str | int | float):
                found[name] = str(value)[:_SLICE_CHARACTERS].encode(errors="replace").decode()
        return found


def annotator_names(dataset: PlanDataset) -> tuple[str, ...]:
    """The columns of judgement; one that is told by chosen and rejected is named `chosen`."""
    columns = dataset.columns
    if columns.annotators is not None:
        return tuple(columns.annotators)
    if columns.responses is None and dataset.format is Format.PAIRS:
        return (columns.chosen or "chosen",)
    return (columns.label or "label",)


def check_judged_format(dataset: PlanDataset) -> None:
    """Raise ConfigError for a format or columns that hold no judgements."""
    columns = dataset.columns
    if dataset.format not in FORMATS:
        raise ConfigError(
            f"{dataset.name}: format {dataset.format} holds no judgements; use one of {', '.join(FORMATS)}",
            reason="NoJudgements",
        )
    if dataset.format is Format.RANKING and columns.responses is None:
        raise ConfigError(f"{dataset.name}: a ranking has several responses: name their columns in columns.responses")
    if dataset.format is Format.PAIRS and columns.responses is not None and len(columns.responses) != 2:
        raise ConfigError(
            f"{dataset.name}: columns.responses names {len(columns.responses)} columns; a pair has two: "
            "name two, or set format to Ranking"
        )


def _response_columns(wanted: Format, columns: Columns) -> tuple[str, ...]:
    if wanted not in COMPARED:
        return (columns.response or "response",)
    if columns.responses is not None:
        return tuple(columns.responses)
    return (columns.chosen or "chosen", columns.rejected or "rejected")


def _slice_columns(columns: Columns, more: list[str]) -> tuple[str, ...]:
    own = (columns.category, columns.cohort, columns.language, *more)
    return tuple(dict.fromkeys(name for name in own if name is not None))


def _compares(ranks: Ranks | None) -> bool:
    return ranks is not None and sum(rank is not None for rank in ranks) > 1

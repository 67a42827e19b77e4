"""What became of every row of human judgements, and how far the annotators agree: part of report.json. Only types."""

from typing import Annotated

from pydantic import Field

from rlhf_operator.api.base import Model
from rlhf_operator.api.result import DatasetRecord
from rlhf_trainer.data.reasons import DropReason, Example, Tally

Interval = tuple[float, float]


class Finding(Model):
    """Something about the data that a person should know; it dropped nothing by itself."""

    name: str
    """CamelCase."""
    message: str
    count: int
    """Rows concerned."""
    examples: tuple[Example, ...] = ()


class AnnotatorFigures(Model):
    """One annotator."""

    name: str
    votes: int
    agreement: float | None = None
    """Mean, over the rows others judged as well, of the share of the others who gave the same verdict."""
    reliability: float | None = None
    """ReliabilityWeighted: expected share of right verdicts."""
    gold_rows: int = 0
    gold_accuracy: float | None = None
    """Share of right verdicts on gold rows."""
    gold_interval: Interval | None = None
    """95 %, Wilson."""


class PairAgreement(Model):
    """Two annotators."""

    first: str
    second: str
    rows: int
    same: float
    """Share of the rows both judged on which they agree."""
    kappa: float | None = None
    """Cohen's; None where one of them always gave the same verdict."""


class AgreementFigures(Model):
    """Agreement on one dimension, over first / second / tie, before any row was dropped for it."""

    dimension: str
    comparisons: int
    """Comparisons with at least two votes."""
    measurable: bool
    """False: nobody's judgements can be held against anybody's."""
    alpha: float | None = None
    """Krippendorff's, nominal; 1 is perfect, 0 what chance gives."""
    alpha_interval: Interval | None = None
    """95 %, bootstrap by prompt."""
    fleiss_kappa: float | None = None
    """Over the comparisons that all annotators judged."""
    fleiss_comparisons: int = 0
    pairs: tuple[PairAgreement, ...] = ()
    annotators: tuple[AnnotatorFigures, ...] = ()


class PartCount(Model):
    """Rows and prompts on one side of a split."""

    comparisons: int
    prompts: int


class RoundCounts(Model):
    """One round of training and measuring."""

    train: PartCount
    calibration: PartCount
    held_out: PartCount


class DatasetReport(Model):
    """One data set."""

    ref: str
    record: DatasetRecord
    dropped: dict[DropReason, Tally] = Field(default_factory=dict)
    """Rows that nothing is learnt from or measured on, by the first reason that applied."""
    comparisons: int
    """Comparisons that the used rows make."""
    comparisons_dropped: dict[DropReason, int] = Field(default_factory=dict)
    """Comparisons left out; a row of several responses may lose some and keep others."""
    ties: int
    """Comparisons without a winner that are kept with a soft label."""
    lone: int
    """Responses that are judged by themselves."""
    findings: tuple[Finding, ...] = ()
    agreement: tuple[AgreementFigures, ...] = ()
    columns: tuple[str, ...] = ()


class DataReport(Model):
    """All data of a version."""

    key: str
    """Digest of everything that decides the outcome beside the content."""
    method: str
    min_agreement: Annotated[float, Field(ge=0, le=1)]
    ties: str
    datasets: tuple[DatasetReport, ...]
    split: str
    """How data was held out, in words."""
    rounds: tuple[RoundCounts, ...]
    """The last one is what the version itself is trained on."""
    prompt_groups: int
    """Prompts, those that nearly repeat each other counted once."""

"""RewardModel: a scorer that is trained from preferences, taken from a model, or written as graders."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .algorithms import Lora, SupervisedOptimizer, Training
from .base import Model, Rule, StatusModel
from .data import DataRef, Dataset
from .graders import Grader
from .jobstatus import RunStatus
from .lifecycle import Checkpoints, Timeouts
from .meta import Conditions, EffectiveStatus, Kind, PrinterColumn, map_list
from .pods import Autoscaling, Compute, Output, PodFields, Storage
from .scalars import Between, Column, Digest, Duration, EntryName, Rate, Time

Dimension = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-zA-Z0-9_]*[a-zA-Z0-9])?$", max_length=40)]
"""A dimension of quality: the same string in graders, scores, feedback and metric labels."""


class AggregationMethod(StrEnum):
    """How several judgements of one row become one."""

    MAJORITY = "Majority"
    RELIABILITY_WEIGHTED = "ReliabilityWeighted"
    BRADLEY_TERRY = "BradleyTerry"
    BORDA = "Borda"


class Ties(StrEnum):
    """What becomes of a tie."""

    SOFT = "Soft"
    DROP = "Drop"


class Aggregation(Model):
    """How several judgements of one row become one."""

    method: AggregationMethod = AggregationMethod.MAJORITY
    """Majority, ReliabilityWeighted (by agreement with the others), BradleyTerry or Borda (for rankings)."""
    min_agreement: Rate = 0.0
    """Rows whose annotators agree less are dropped and counted."""
    ties: Ties = Ties.SOFT
    """Soft trains on the share of votes, Drop leaves ties out."""


class Train(Model):
    """A reward model trained from preferences."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.dataset.format in ['Pairs', 'Ranking', 'Scalar', 'Binary']",
            "a reward model learns from judgements: set dataset.format to Pairs, Ranking, Scalar or Binary",
        ),
        Rule(
            "!has(self.aggregation) || self.aggregation.method != 'Borda' || self.dataset.format == 'Ranking'",
            "Borda aggregates rankings: set dataset.format to Ranking, or use another method",
        ),
    )

    base_model: DataRef
    """The model to start from: an encoder or a decoder in Hugging Face format."""
    dataset: Dataset
    """Judged responses."""
    aggregation: Aggregation = Aggregation()
    """How several judgements of one row become one."""
    training: Training
    """How long and how wide."""
    optimizer: SupervisedOptimizer = SupervisedOptimizer()
    """Its optimizer."""
    max_length: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    """Longest prompt and response together, in tokens; prompts are cut from the left, and counted."""
    lora: Lora | None = None
    """Train a low-rank adapter instead of all weights."""


class WeightedGrader(Model):
    """A grader with its part in the score of a dimension."""

    name: EntryName
    """Name of the grader, unique in the list."""
    dimension: Dimension = "overall"
    """Dimension it judges; one of the RewardModel's dimensions."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Its weight in the mean of the dimension."""
    grader: Grader
    """The rule."""


class Source(Model):
    """Where the scorer comes from."""

    one_of: ClassVar[tuple[str, ...]] = ("train", "model", "graders")

    train: Train | None = None
    """Train it from preferences."""
    model: DataRef | None = None
    """Take an existing sequence-classification model."""
    graders: Annotated[list[WeightedGrader], Field(min_length=1), map_list("name", 16)] | None = None
    """Write it as rules."""


class SplitBy(StrEnum):
    """What stays together when data is split."""

    PROMPT = "Prompt"


class Split(Model):
    """How evaluation data is held out: a share, or folds."""

    one_of: ClassVar[tuple[str, ...]] = ("held_out_fraction", "folds")

    by: SplitBy = SplitBy.PROMPT
    """Prompt: all rows of a prompt fall on one side. Splitting by row would leak and is not offered."""
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the prompts that is held out."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """Number of folds for cross-validation."""


class RewardSlices(Model):
    """Parts of the data on which accuracy must hold as well."""

    columns: Annotated[list[Column], Field(min_length=1, max_length=8)]
    """Columns to slice by."""
    min_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 30
    """Smaller slices are reported and gate nothing."""
    min_accuracy: Rate
    """Lowest accuracy of a slice."""


class RewardEvaluation(Model):
    """The gate: what a version must reach before it is used."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.dataset) || self.dataset.format in ['Pairs', 'Ranking', 'Scalar', 'Binary']",
            "a reward model is held against judgements: set evaluation.dataset.format to Pairs, Ranking, Scalar or "
            "Binary",
        ),
    )

    dataset: Dataset | None = None
    """Judged responses to evaluate on. Unset: a part of the training data is held out, as `split` says."""
    split: Split = Split(held_out_fraction=0.1)
    """How evaluation data is held out."""
    min_accuracy: Rate | None = None
    """Lowest accuracy."""
    min_lower_bound: Rate | None = None
    """Lowest lower bound of the accuracy's 95 % interval."""
    max_calibration_error: Rate | None = None
    """Highest expected calibration error."""
    max_length_bias: Rate | None = None
    """Highest |Spearman correlation| of score and length."""
    must_prefer: DataRef | None = None
    """Pairs (JSON lines with prompt, chosen, rejected) that must all come out right."""
    slices: RewardSlices | None = None
    """Parts of the data on which accuracy must hold as well."""


class RewardServing(PodFields):
    """The pods that answer /v1/score."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.autoscaling) || self.autoscaling.metric == 'QueueDepth'",
            "a scorer has a queue and no KV cache: set autoscaling.metric to QueueDepth",
        ),
    )

    enabled: bool = True
    """Whether the current version is served."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of pods; with autoscaling the number to begin with."""
    autoscaling: Autoscaling | None = None
    """Follow the queue: needs KEDA and Prometheus in the cluster. Without KEDA the number of pods stays fixed."""
    progress_deadline: Annotated[Duration, Between("30s", "24h")] = Duration("15m")
    """Time in which a version's pods must be ready; after it the version is named, and the former one goes on."""


class RewardModelSpec(Model):
    """What is wanted. A change makes a new version."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.source.graders) || self.source.graders.all(g, self.dimensions.exists(d, d == g.dimension))",
            "source.graders[*].dimension must be one of dimensions",
        ),
        Rule(
            "!has(self.source.graders) || self.dimensions.all(d, self.source.graders.exists(g, g.dimension == d))",
            "every entry of dimensions needs a grader: add one, or remove the dimension",
        ),
        Rule(
            "has(self.source.train) || !has(self.evaluation) || has(self.evaluation.dataset) || "
            "has(self.evaluation.mustPrefer)",
            "there is no training data to hold out from: set evaluation.dataset, or train",
        ),
        Rule(
            "!has(self.source.train) || self.dimensions.size() == 1 || "
            "has(self.source.train.dataset.columns.dimension)",
            "several dimensions are told apart by a column: set source.train.dataset.columns.dimension",
        ),
        Rule(
            "!has(self.source.train) || self.source.train.training.batchSize % "
            "(self.compute.workers * (self.compute.gpusPerWorker > 0 ? self.compute.gpusPerWorker : 1) * "
            "self.source.train.training.microBatchSize) == 0",
            "source.train.training.batchSize must be divisible by ranks (compute.workers x "
            "max(1, compute.gpusPerWorker)) x source.train.training.microBatchSize",
        ),
        Rule(
            "self.compute.workers == 1 || !has(self.storage.accessModes) || "
            "self.storage.accessModes.exists(m, m == 'ReadWriteMany')",
            "several workers write to the same claim: add ReadWriteMany to storage.accessModes, or leave it out",
        ),
    )

    dimensions: Annotated[
        list[Dimension], Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = ["overall"]
    """What is judged; with more than one, one head each."""
    source: Source
    """Where the scorer comes from: train, model or graders."""
    evaluation: RewardEvaluation | None = None
    """The gate; without it every version is used."""
    serving: RewardServing = RewardServing()
    """The pods that answer /v1/score."""
    compute: Compute = Compute()
    """Pods of the training and how they share the model."""
    storage: Storage
    """The volume for workspaces and versions."""
    output: Output = Output()
    """Where versions go; by default onto the storage claim."""
    checkpoints: Checkpoints = Checkpoints()
    """When training is saved."""
    timeouts: Timeouts = Timeouts()
    """How long silence is tolerated."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 5
    """Failures that are retried; disruptions and preemptions do not count."""
    suspend: bool = False
    """Stop the training's pods and keep the place; false goes on from the last checkpoint. Serving is not touched."""
    versions_limit: Annotated[int, Field(ge=1, le=100)] = 5
    """Versions that are kept, beside those in use."""
    pinned_version: Digest | None = None
    """Serve and use this version instead of the newest that passed: the way back."""


class RewardModelVersion(StatusModel):
    """One version and its figures."""

    digest: str = ""
    """Its identity: sha256: and 64 hex digits."""
    alias: str | None = None
    """Its readable name."""
    gate: str | None = None
    """Passed, Failed or NotEvaluated."""
    message: str | None = None
    """The gate's words: each figure that missed its limit."""
    limits: dict[str, float] = {}
    """The limits that it was held against."""
    ref: str | None = None
    """Where its files lie: pvc://claim/path, or workspace://folder while its gate has not passed."""
    plan_digest: str | None = None
    """Digest of the plan that made it."""
    scorer: str | None = None
    """What scores: Model or Graders."""
    dimensions: list[str] = []
    """What it judges."""
    accuracy: float | None = None
    """Share of held-out pairs that came out right."""
    accuracy_interval: list[float] = []
    """The accuracy's 95 % interval: lower and upper bound."""
    calibration_error: float | None = None
    """Expected calibration error."""
    length_bias: float | None = None
    """Spearman correlation of score and length."""
    agreement_alpha: float | None = None
    """Krippendorff's alpha among annotators."""
    dropped_rows: int | None = None
    """Rows that were not trained on."""
    at: Time | None = None
    """When it was judged."""
    url: str | None = None
    """Address of this version alone, while it is served."""


class RewardModelRun(RunStatus):
    """The run that makes the version that the spec asks for."""

    failed: str | None = None
    """Reason for which it is not tried again until the spec changes."""
    message: str | None = None
    """The same for people."""
    generation: int | None = None
    """Generation of the spec that it last ran for."""


class RewardModelStatus(StatusModel):
    """What is so, as the operator saw it."""

    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""
    phase: str | None = None
    """Summary for people, derived from the conditions; no code reads it."""
    message: str | None = None
    """One line for people: what happens now, or what to do."""
    conditions: Conditions = []
    """The state for machines: Ready, Reconciling, Stalled, Trained, Evaluated, Serving."""
    effective: EffectiveStatus | None = None
    """What is in force, by name."""
    run: RewardModelRun | None = None
    """The run that makes the version that the spec asks for, or made it."""
    attempts_made: int | None = None
    """Highest number that an attempt of any plan had."""
    current_version: str | None = None
    """Version in use: the one of the spec once it passed, else the last that did; or the pinned one."""
    served_version: str | None = None
    """Version that the stable Service's clients reach."""
    served_since: Time | None = None
    """When it began to."""
    url: str | None = None
    """Address of /v1/score inside the cluster."""
    versions: list[RewardModelVersion] = []
    """Versions, the one last made or gone back to first."""


class RewardModel(Kind):
    """A scorer: trained from preferences, taken from a model, or written as graders; evaluated, versioned, served."""

    plural: ClassVar[str] = "rewardmodels"
    short_name: ClassVar[str] = "rm"
    printer_columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether it can be used"),
        PrinterColumn("Phase", "string", ".status.phase", "Summary of the conditions"),
        PrinterColumn("Gate", "string", ".status.versions[0].gate", "Verdict on the newest version"),
        PrinterColumn("Accuracy", "number", ".status.versions[0].accuracy", "Accuracy of the newest version"),
        PrinterColumn("Version", "string", ".status.currentVersion", "Digest of the version in use", 1),
        PrinterColumn("URL", "string", ".status.url", "Address inside the cluster", 1),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since creation"),
        PrinterColumn("Message", "string", ".status.message", "What happens now, or what to do", 1),
    )

    kind: Literal["RewardModel"] = "RewardModel"
    spec: RewardModelSpec
    """What is wanted."""
    status: RewardModelStatus = RewardModelStatus()
    """What is so."""

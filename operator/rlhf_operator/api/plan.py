"""The resolved plan: everything a run depends on, with every default filled in; frozen once it is written.

The operator writes it (rlhfjob/plan.py), the trainer reads it. What may change without making the run another one
(micro-batch size, guards' actions) is not in the plan but in `LiveSettings` and the attempt's arguments, so that
the digest of the plan names the workspace for good.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from rlhf_operator.api.base import Model
from rlhf_operator.api.data import HubSource, S3Source
from rlhf_operator.api.evaluation import Slices
from rlhf_operator.api.result import Digest
from rlhf_operator.api.rewardgate import RewardGate
from rlhf_operator.api.rlhfjob import (
    DPO,
    GRPO,
    KTO,
    PPO,
    RLOO,
    SFT,
    Algorithm,
    AllMaskedGuard,
    EntropyGuard,
    Generation,
    Guard,
    GuardAction,
    KLGuard,
    LogProbDriftGuard,
    Lora,
    NonFiniteGuard,
    Offload,
    Optimizer,
    Precision,
    Reward,
    RewardHackingGuard,
    RewardSaturationGuard,
    SlowConvergenceGuard,
)
from rlhf_operator.api.shared import Columns, Format, Grader, Provenance

PLAN_FILE = "plan.json"
SETTINGS_FILE = "settings.json"
STORAGE_PATH = "/rlhf/storage"
SOURCES_PATH = f"{STORAGE_PATH}/sources"
"""Where the trainer puts what it fetches from a hub or an object store."""
CLAIMS_PATH = "/rlhf/claims"
CONFIG_MAPS_PATH = "/rlhf/configmaps"
PLAN_PATH = "/rlhf/plan"
SETTINGS_PATH = "/rlhf/settings"
OUTPUT_PATH = "/rlhf/output"
SIGNING_KEY_PATH = "/rlhf/signing-key"
TOKENS_PATH = "/rlhf/tokens"
"""Bearer tokens of graders behind an address: `<Secret>/<TOKEN_FILE>`."""
TOKEN_FILE = "token"  # noqa: S105
CREDENTIALS_PATH = "/rlhf/credentials"
FETCHED = "content"
"""Last part of the path of an input that is fetched; what it was resolved to is noted beside it."""
PROGRESS_PORT = 9400
TORCHRUN_PORT = 29400

TOTAL = "total"
"""Name of the mean over a reward model's dimensions: what a consumer that names no dimension gets."""

PodPath = Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]


class SourceContent(StrEnum):
    """What an input is, and with it which files of a folder are fetched and what its digest covers."""

    DATA = "Data"
    """Rows: JSON lines, JSON or Parquet."""
    MODEL = "Model"
    """A Hugging Face model directory."""
    ARTIFACT = "Artifact"
    """Every file of a published artifact."""


class PlanFetch(Model):
    """Where an input is fetched from, as the spec names it: exactly one of hf, s3."""

    content: SourceContent
    hf: HubSource | None = None
    s3: S3Source | None = None
    credentials: PodPath | None = None
    """Folder with the keys of the Secret; None: what the pod's environment gives."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.hf is None) == (self.s3 is None):
            raise ValueError("give exactly one of hf, s3")
        return self


class PlanSource(Model):
    """Where the pod finds one input."""

    path: PodPath
    ref: str
    """The same input as a person names it, for example pvc://data/prompts.jsonl."""
    digest: Digest | None = None
    """Held against the content when given."""
    fetch: PlanFetch | None = None
    """Set when `path` is empty until the first attempt has fetched it."""


class PlanDataset(PlanSource):
    """A data set and what its columns mean."""

    name: str
    """`train`, `warmStart`, `evaluation`, or `suite-` and a suite's name."""
    format: Format
    columns: Columns
    provenance: Provenance | None = None


class PlanRewardModel(Model):
    """A reward model's files as the pod finds them, or the address that serves them."""

    name: str
    version: Digest | None = None
    dimension: str = TOTAL
    path: PodPath | None = None
    url: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError(f"reward model {self.name}: give exactly one of path, url")
        return self


class PlanScorer(Model):
    """A named judge of (prompt, response)."""

    name: str
    grader: Grader | None = None
    grader_path: PodPath | None = None
    """File of a Python grader that came from a ConfigMap."""
    grader_digest: Digest | None = None
    """SHA-256 of that file when the plan was made."""
    token_path: PodPath | None = None
    """File that holds the bearer token of a grader behind an address; read again for every request."""
    reward_model: PlanRewardModel | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.grader is None) == (self.reward_model is None):
            raise ValueError(f"scorer {self.name}: give exactly one of grader, rewardModel")
        return self


class PlanTraining(Model):
    """How long and how wide: exactly one of steps, epochs.

    A step is one batch of responses and its updates; for SFT, DPO and KTO one optimizer step.
    """

    steps: int | None = None
    epochs: float | None = None
    """Passes over the data set, where no responses are generated; the last batch is filled from the next pass."""
    batch_size: int
    """Responses (rows) per step, over all ranks."""
    seed: int

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("training: give exactly one of steps, epochs")
        return self

    def steps_of(self, rows: int) -> int:
        """The steps of a run over so many rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * rows / self.batch_size))


class PlanWarmStart(Model):
    """Supervised fine-tuning on demonstrations before the main algorithm."""

    dataset: PlanDataset
    epochs: float
    batch_size: int
    seed: int
    optimizer: Optimizer


class PlanCompute(Model):
    """The processes of one attempt and how they share the model."""

    workers: int
    procs_per_worker: int
    gpus_per_worker: int
    zero_stage: int
    offload: Offload
    precision: Precision
    gradient_checkpointing: bool
    attention: str
    deterministic: bool

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.workers * self.procs_per_worker


class PlanCheckpoints(Model):
    """When a checkpoint is written and how many are kept."""

    every_steps: int
    keep: int
    grace_period_seconds: float


class PlanGuard(Model):
    """A limit on a figure. Its action is a live setting."""

    name: str
    patience: int
    kl: KLGuard | None = None
    slow_convergence: SlowConvergenceGuard | None = None
    entropy: EntropyGuard | None = None
    reward_hacking: RewardHackingGuard | None = None
    reward_saturation: RewardSaturationGuard | None = None
    all_masked: AllMaskedGuard | None = None
    log_prob_drift: LogProbDriftGuard | None = None
    non_finite: NonFiniteGuard | None = None

    @property
    def kind(self) -> str:
        """The Python name of the one block that is set."""
        return next(kind for kind in Guard.one_of if getattr(self, kind) is not None)


class PlanSuite(Model):
    """A fixed set of tasks on which the policy must not become worse than the base model."""

    name: str
    dataset: PlanDataset
    scorer: str
    max_drop: float


class PlanEvaluation(Model):
    """What is measured before the first step and after the last, and what must hold."""

    dataset: PlanDataset
    every_steps: int | None = None
    baselines: list[str]
    scorers: list[str]
    min_win_rate: float | None = None
    min_improvement: float | None = None
    suites: list[PlanSuite] | None = None
    """None rather than empty: a plan without suites keeps its digest."""
    slices: Slices | None = None


class PlanTimeouts(Model):
    """How long silence is tolerated, in seconds."""

    startup_seconds: float
    progress_seconds: float


class PlanOutput(Model):
    """Where the artifact goes."""

    claim: str
    path: str
    alias: str | None = None
    sign: bool = False
    s3: S3Source | None = None
    """Where a copy of it goes."""
    credentials: PodPath | None = None
    """Folder with the keys of the Secret for `s3`."""


class RunPlan(Model):
    """What every run has, whatever it trains: who, on which image, over which processes, for how long, to where."""

    name: str
    namespace: str
    image: str
    """The trainer image of every attempt; part of the plan, so that an operator upgrade changes no run."""
    compute: PlanCompute
    checkpoints: PlanCheckpoints
    timeouts: PlanTimeouts
    output: PlanOutput

    @property
    def scorer_claims(self) -> tuple[str, ...]:
        """Claims that hold reward models which are read in process."""
        return ()

    def inputs(self) -> Iterator[tuple[str, PlanSource]]:
        """Yield (field of the spec, input) of every model and data set."""
        yield from ()

    def canonical(self) -> str:
        """Return the one JSON text of this plan: sorted keys, no white space, nulls left out."""
        return json.dumps(
            self.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=True, separators=(",", ":")
        )

    def digest(self) -> str:
        """Return `sha256:` and the SHA-256 of `canonical()`."""
        return "sha256:" + hashlib.sha256(self.canonical().encode()).hexdigest()


class TrainingPlan(RunPlan):
    """One RLHFJob, resolved. Read by `python -m rlhf_trainer`."""

    algorithm: Algorithm
    base_model: PlanSource
    parent_artifact: PlanSource | None = None
    warm_start: PlanWarmStart | None = None
    dataset: PlanDataset
    scorers: list[PlanScorer] = []
    rewards: list[Reward] = []
    monitors: list[str] = []
    training: PlanTraining
    optimizer: Optimizer
    generation: Generation
    ppo: PPO | None = None
    grpo: GRPO | None = None
    rloo: RLOO | None = None
    dpo: DPO | None = None
    kto: KTO | None = None
    sft: SFT | None = None
    lora: Lora | None = None
    guards: list[PlanGuard] = []
    evaluation: PlanEvaluation | None = None

    @property
    def scorer_claims(self) -> tuple[str, ...]:
        """Claims that hold reward models which are read in process."""
        paths = [scorer.reward_model.path for scorer in self.scorers if scorer.reward_model is not None]
        found = {path.removeprefix(f"{CLAIMS_PATH}/").split("/")[0] for path in paths if path is not None}
        return tuple(sorted(found))

    def inputs(self) -> Iterator[tuple[str, PlanSource]]:
        """Yield (field of the spec, input) of every model and data set."""
        yield "baseModel", self.base_model
        if self.parent_artifact is not None:
            yield "parentArtifact", self.parent_artifact
        if self.warm_start is not None:
            yield "warmStart.dataset", self.warm_start.dataset
        yield "dataset", self.dataset
        if self.evaluation is not None:
            yield "evaluation.dataset", self.evaluation.dataset
            for suite in self.evaluation.suites or []:
                yield f"evaluation.suites[{suite.name}].dataset", suite.dataset


def workspace_name(job: str, plan_digest: str) -> str:
    """Return the workspace's folder name under the storage claim: the job's name and 12 hex digits of the digest."""
    return f"{job}-{plan_digest.removeprefix('sha256:')[:12]}"


class LiveSettings(Model):
    """What may change while a job runs; mounted as a file, read again at every step."""

    guard_actions: dict[str, GuardAction] = {}
    reward_gate: RewardGate | None = None
    """RewardModel: what a version must reach. A limit that changes judges again; it trains nothing again."""

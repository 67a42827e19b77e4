"""The status of an RLHFJob. Tolerant throughout: lists are cut in code, never refused by the CRD."""

from __future__ import annotations

from .base import StatusModel
from .meta import Conditions, EffectiveStatus
from .scalars import Time


class ScorerProgress(StatusModel):
    """How long a scorer takes."""

    name: str = ""
    """Name of the scorer."""
    p95_seconds: float | None = None
    """95th percentile of the time per text, in seconds; above 1 the job warns."""


class Progress(StatusModel):
    """The last reading of a running job."""

    step: int | None = None
    """Steps done."""
    steps: int | None = None
    """Steps in all."""
    reward: float | None = None
    """Mean reward of the last step."""
    kl: float | None = None
    """KL to the reference model, in nats per response."""
    entropy: float | None = None
    """Mean entropy, in nats per token."""
    loss: float | None = None
    """Of a reward model, SFT, DPO and KTO: loss of the last step."""
    accuracy: float | None = None
    """Of a reward model and DPO: share of the last step's pairs that came out right before its update."""
    tokens_per_second: float | None = None
    """Tokens generated and trained per second."""
    eta_seconds: int | None = None
    """Expected time until the last step, in seconds."""
    scorers: list[ScorerProgress] | None = None
    """How long each scorer takes, on rank 0."""
    updated_at: Time | None = None
    """When the operator first read these figures."""


class CheckpointStatus(StatusModel):
    """The newest complete checkpoint."""

    step: int | None = None
    """Step after which it was written."""
    digest: str | None = None
    """Its digest."""


class Attempt(StatusModel):
    """One try to run the job: one Indexed Job."""

    number: int
    """Number of the attempt, from 1."""
    class_: str | None = None
    """How it ended: Succeeded, or a failure class such as Crash, OutOfMemory, Disruption."""
    reason: str | None = None
    """Why, in one line."""
    node: str | None = None
    """Node of the pod that ended it."""
    micro_batch_size: int | None = None
    """Micro-batch size in force."""
    from_: Time | None = None
    """Start."""
    to: Time | None = None
    """End."""


class ComparisonStatus(StatusModel):
    """The trained policy against one baseline by one scorer; ties count one half."""

    scorer: str = ""
    """Name of the scorer."""
    baseline: str = ""
    """Base, WarmStart or Parent."""
    win_rate: float | None = None
    """Share of prompts on which the trained policy's answer is better."""
    lower: float | None = None
    """Lower bound of the 95 % interval."""
    upper: float | None = None
    """Upper bound of the 95 % interval."""
    mean: float | None = None
    """Mean score of the trained policy."""
    baseline_mean: float | None = None
    """Mean score of the baseline."""
    prompts: int | None = None
    """Number of prompts."""
    gain: float | None = None
    """Mean gain in score over the baseline."""
    gain_lower: float | None = None
    """Lower bound of the gain's 95 % interval."""
    gain_upper: float | None = None
    """Upper bound of the gain's 95 % interval."""
    length_controlled: float | None = None
    """Win rate as it would be at equal lengths."""
    length_ratio: float | None = None
    """Mean length of the trained policy's texts over that of the baseline's."""
    passed: bool | None = None
    """Whether the gate passed here."""


class SuiteStatus(StatusModel):
    """Outcome of one suite."""

    name: str = ""
    """Name of the suite."""
    score: float | None = None
    """Mean score of the trained policy."""
    baseline_score: float | None = None
    """Mean score of the base model."""
    passed: bool | None = None
    """Whether the gate passed here."""


class SliceStatus(StatusModel):
    """Outcome of one slice by one scorer."""

    scorer: str = ""
    """Name of the scorer."""
    column: str = ""
    """Column that was sliced by."""
    value: str = ""
    """Its value."""
    samples: int | None = None
    """Number of prompts."""
    drop: float | None = None
    """Fall of the mean score below the base model's."""
    passed: bool | None = None
    """Whether the gate passed here."""


class EvaluationStatus(StatusModel):
    """What the evaluation found."""

    gate: str | None = None
    """Passed or Failed; unset until the last evaluation."""
    message: str | None = None
    """The verdict in one line."""
    step: int | None = None
    """Step of the evaluation."""
    comparisons: list[ComparisonStatus] = []
    """Win rates by scorer and baseline."""
    suites: list[SuiteStatus] = []
    """Outcomes of the suites."""
    slices: list[SliceStatus] = []
    """Outcomes of the slices."""


class CostStatus(StatusModel):
    """What the job has used."""

    gpu_hours: float | None = None
    """GPU hours over all attempts."""
    ended_gpu_hours: float | None = None
    """The part of them that belongs to attempts that have ended."""
    amount: str | None = None
    """Money, by budget.pricePerGPUHour."""


class RewardModelUse(StatusModel):
    """A reward model's version that was used."""

    name: str = ""
    """Name of the RewardModel."""
    version: str = ""
    """Digest of the version."""
    url: str | None = None
    """Address that the run asks; unset when it reads the files."""
    path: str | None = None
    """Where its pods find the files."""


class Artifact(StatusModel):
    """What the job published."""

    ref: str | None = None
    """Where it lies, for example pvc://claim/path."""
    uri: str | None = None
    """Where its copy lies in an object store, when output.s3 is set."""
    digest: str | None = None
    """Its identity: sha256: and 64 hex digits."""
    alias: str | None = None
    """Its readable name."""
    gate: str | None = None
    """Passed, Failed, or NotEvaluated when there is no evaluation block."""
    signed: bool | None = None
    """Whether it is signed."""
    base_model_digest: str | None = None
    """Digest of the base model."""
    dataset_digests: list[str] = []
    """Digests of the data sets."""
    plan_digest: str | None = None
    """Digest of the plan."""
    reward_models: list[RewardModelUse] = []
    """Reward models that were used."""
    parent: str | None = None
    """Digest of the artifact it was retrained from."""
    image: str | None = None
    """Image that trained it."""


class ResolvedSource(StatusModel):
    """A source as it was resolved once, for good."""

    field: str = ""
    """Field of the spec, for example dataset."""
    ref: str = ""
    """The source as a person names it."""
    revision: str | None = None
    """Commit of a hub repository."""
    digest: str | None = None
    """Digest of the content."""


class RunStatus(StatusModel):
    """One run of a plan."""

    plan_digest: str | None = None
    """Digest of the resolved plan."""
    resolved: list[ResolvedSource] = []
    """Sources as they were resolved once."""
    progress: Progress | None = None
    """The last reading."""
    checkpoint: CheckpointStatus | None = None
    """The newest complete checkpoint."""
    attempts: list[Attempt] = []
    """The newest attempts."""
    restarts: int | None = None
    """Attempts that count against maxRestarts."""
    cost: CostStatus | None = None
    """What the run has used."""
    start_time: Time | None = None
    """When the first attempt started."""


class RLHFJobStatus(StatusModel):
    """What is so, as the operator saw it."""

    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""
    phase: str | None = None
    """Summary for people, derived from the conditions; no code reads it."""
    message: str | None = None
    """One line for people: what happens now, or what to do."""
    conditions: Conditions = []
    """The state for machines: Ready, Reconciling, Stalled, ReferencesResolved, StorageReady, Queued, Running,
    Suspended, Evaluated, Published, Complete, Failed."""
    algorithm: str | None = None
    """Algorithm, derived from the block that is set."""
    plan_digest: str | None = None
    """Digest of the resolved plan."""
    effective: EffectiveStatus | None = None
    """What is in force, by name."""
    resolved: list[ResolvedSource] = []
    """Sources as they were resolved once."""
    reward_models: list[RewardModelUse] = []
    """Versions of RewardModels that the run uses from its first attempt to its last."""
    progress: Progress | None = None
    """The last reading of the running job."""
    checkpoint: CheckpointStatus | None = None
    """The newest complete checkpoint."""
    attempts: list[Attempt] = []
    """The newest attempts."""
    restarts: int | None = None
    """Attempts that count against maxRestarts."""
    evaluation: EvaluationStatus | None = None
    """What the evaluation found."""
    cost: CostStatus | None = None
    """What the job has used."""
    artifact: Artifact | None = None
    """What the job published."""
    start_time: Time | None = None
    """When the first attempt started."""
    completion_time: Time | None = None
    """When the job became Complete or Failed."""

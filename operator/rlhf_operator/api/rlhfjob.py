"""RLHFJob: one training run. What each part means is in the modules it is put together from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .algorithms import (
    DPO,
    GRPO,
    KTO,
    PPO,
    RLOO,
    SFT,
    Algorithm,
    Critic,
    GRPOLoss,
    KLControl,
    Lora,
    Normalize,
    Optimizer,
    Reward,
    ScaleRewards,
    Schedule,
    SupervisedOptimizer,
    Training,
)
from .base import Model, Rule
from .data import DataRef, Dataset
from .evaluation import Baseline, Evaluation, Slices, Suite
from .generation import (
    Generation,
    ImportanceCorrection,
    OverlongPrompt,
    RolloutEngine,
    RolloutSettings,
    Truncation,
    TruncationMode,
)
from .graders import NamedScorer
from .guards import (
    DEFAULT_GUARDS,
    AllMaskedGuard,
    EntropyGuard,
    Guard,
    GuardAction,
    KLGuard,
    LogProbDriftGuard,
    NonFiniteGuard,
    RewardHackingGuard,
    RewardSaturationGuard,
    SlowConvergenceGuard,
)
from .jobrules import JOB_RULES
from .jobstatus import (
    Artifact,
    Attempt,
    CheckpointStatus,
    ComparisonStatus,
    CostStatus,
    EvaluationStatus,
    Progress,
    ResolvedSource,
    RewardModelUse,
    RLHFJobStatus,
)
from .lifecycle import Budget, Checkpoints, Timeouts
from .meta import Condition, Kind, PrinterColumn, map_list
from .pods import Compute, Offload, Output, Precision, Signing, Storage
from .scalars import EntryName

__all__ = [
    "DEFAULT_GUARDS",
    "DPO",
    "GRPO",
    "KTO",
    "MUTABLE_FIELDS",
    "PPO",
    "RLOO",
    "SFT",
    "Algorithm",
    "AllMaskedGuard",
    "Artifact",
    "Attempt",
    "Baseline",
    "Budget",
    "CheckpointStatus",
    "Checkpoints",
    "ComparisonStatus",
    "Compute",
    "Condition",
    "CostStatus",
    "Critic",
    "EntropyGuard",
    "Evaluation",
    "EvaluationStatus",
    "GRPOLoss",
    "Generation",
    "Guard",
    "GuardAction",
    "ImportanceCorrection",
    "KLControl",
    "KLGuard",
    "LogProbDriftGuard",
    "Lora",
    "NonFiniteGuard",
    "Normalize",
    "Offload",
    "Optimizer",
    "Output",
    "OverlongPrompt",
    "Precision",
    "Progress",
    "RLHFJob",
    "RLHFJobSpec",
    "RLHFJobStatus",
    "ResolvedSource",
    "Reward",
    "RewardHackingGuard",
    "RewardModelUse",
    "RewardSaturationGuard",
    "RolloutEngine",
    "RolloutSettings",
    "ScaleRewards",
    "Schedule",
    "Signing",
    "Slices",
    "SlowConvergenceGuard",
    "Storage",
    "Suite",
    "Timeouts",
    "Training",
    "Truncation",
    "TruncationMode",
    "WarmStart",
]

MUTABLE_FIELDS = frozenset({"suspend", "budget", "max_restarts", "guards", "ttl_seconds_after_finished"})
"""Fields of the spec that may change after creation; of guards only the actions."""


class WarmStart(Model):
    """Supervised fine-tuning before the main algorithm."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.dataset.format == 'Demonstrations'",
            "a warm start learns from demonstrations: set dataset.format to Demonstrations",
        ),
    )

    dataset: Dataset
    """Demonstrations."""
    training: Training
    """How long and how wide."""
    optimizer: SupervisedOptimizer = SupervisedOptimizer()
    """Its optimizer."""


class RLHFJobSpec(Model):
    """What is wanted.

    Immutable from creation except suspend, budget, maxRestarts, guards[*].action and ttlSecondsAfterFinished.
    """

    one_of: ClassVar[tuple[str, ...]] = ("ppo", "grpo", "rloo", "dpo", "kto", "sft")
    rules: ClassVar[tuple[Rule, ...]] = JOB_RULES
    immutable_advice: ClassVar[str] = (
        "create a new RLHFJob (only suspend, budget, maxRestarts, ttlSecondsAfterFinished and the guards' actions may "
        "change)"
    )

    base_model: DataRef
    """The model to start from: a folder in Hugging Face format."""
    parent_artifact: DataRef | None = None
    """The artifact that this run retrains from; recorded as lineage, and a baseline to compare with."""
    warm_start: WarmStart | None = None
    """Supervised fine-tuning first."""
    dataset: Dataset
    """What is trained on: prompts; for DPO pairs, for KTO judged responses, for SFT demonstrations."""
    scorers: Annotated[list[NamedScorer], map_list("name", 16)] = []
    """Everything that can judge a text, named once."""
    rewards: Annotated[list[Reward], map_list("scorer", 16)] = []
    """Scorers that are optimised: normalised, clipped, weighted, added."""
    monitors: Annotated[list[EntryName], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"})] = []
    """Scorers that are watched and never optimised: what reward hacking is seen by."""
    training: Training
    """How long and how wide."""
    optimizer: Optimizer = Optimizer()
    """The policy's optimizer."""
    generation: Generation = Generation()
    """How responses are sampled."""
    rollout: RolloutSettings = RolloutSettings()
    """What generates responses."""
    ppo: PPO | None = None
    """Proximal policy optimization."""
    grpo: GRPO | None = None
    """Group relative policy optimization."""
    rloo: RLOO | None = None
    """REINFORCE leave-one-out."""
    dpo: DPO | None = None
    """Direct preference optimization."""
    kto: KTO | None = None
    """Kahneman-Tversky optimization."""
    sft: SFT | None = None
    """Supervised fine-tuning."""
    lora: Lora | None = None
    """Train a low-rank adapter instead of all weights."""
    compute: Compute = Compute()
    """Pods and how they share the model."""
    storage: Storage
    """The volume for workspaces and artifacts."""
    output: Output = Output()
    """Where the artifact goes; by default onto the storage claim."""
    checkpoints: Checkpoints = Checkpoints()
    """When the run is saved."""
    guards: Annotated[list[Guard], map_list("name", 16)] = []
    """Limits on figures; an entry replaces the default guard of that name."""
    evaluation: Evaluation | None = None
    """What is measured before and after, and the gate; without it the artifact's gate is NotEvaluated."""
    timeouts: Timeouts = Timeouts()
    """How long silence is tolerated."""
    budget: Budget | None = None
    """What the job may use. May be changed at any time."""
    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 5
    """Failures that are retried; disruptions and preemptions do not count. May be changed at any time."""
    suspend: bool = False
    """Stop the pods and keep the place; false goes on from the last checkpoint. May be changed at any time."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    """Delete the object so many seconds after it finished; never when unset. Artifacts stay."""

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm, by the block that is set."""
        return next(a for a in Algorithm if getattr(self, a.value.lower()) is not None)


RLHFJobSpec.immutable = tuple(name for name in RLHFJobSpec.model_fields if name not in MUTABLE_FIELDS)


class RLHFJob(Kind):
    """One training run: optional SFT, then PPO, GRPO, RLOO, DPO or KTO (or SFT alone), evaluated and published."""

    plural: ClassVar[str] = "rlhfjobs"
    short_name: ClassVar[str] = "rj"
    printer_columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn("Algorithm", "string", ".status.algorithm", "Algorithm of the run"),
        PrinterColumn("Phase", "string", ".status.phase", "Summary of the conditions"),
        PrinterColumn("Step", "integer", ".status.progress.step", "Steps done"),
        PrinterColumn("Steps", "integer", ".status.progress.steps", "Steps in all"),
        PrinterColumn("Reward", "number", ".status.progress.reward", "Mean reward of the last step"),
        PrinterColumn("KL", "number", ".status.progress.kl", "KL in nats per response"),
        PrinterColumn("ETA s", "integer", ".status.progress.etaSeconds", "Seconds until the last step", 1),
        PrinterColumn("Gate", "string", ".status.artifact.gate", "Verdict of the evaluation"),
        PrinterColumn("Artifact", "string", ".status.artifact.digest", "Digest of the artifact", 1),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since creation"),
        PrinterColumn("Message", "string", ".status.message", "What happens now, or what to do", 1),
    )

    kind: Literal["RLHFJob"] = "RLHFJob"
    spec: RLHFJobSpec
    """What is wanted."""
    status: RLHFJobStatus = RLHFJobStatus()
    """What is so."""

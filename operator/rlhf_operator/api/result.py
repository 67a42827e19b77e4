"""What a training run hands back: live progress, the termination message, result.json and the artifact's record."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from rlhf_operator.api.base import Model
from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.rewardgate import RewardFigures

TERMINATION_MESSAGE_BYTES = 3072
"""Bound of the termination message; the kubelet cuts at 4096."""

MAX_FIGURES = 20

AGREEMENT_ALPHA, DROPPED_ROWS = "agreementAlpha", "droppedRows"
"""Figures of a RewardModel's data: the lowest Krippendorff's alpha of a dimension, and rows that were left out."""

MAX_SLICES = 200

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class ScorerReading(Model):
    """How long a scorer takes, on rank 0."""

    name: str
    p95_seconds: float
    """95th percentile of the time per text."""


class ResolvedInput(Model):
    """An input that was fetched: what it was resolved to, once, for every attempt."""

    field: str
    """Field of the spec."""
    revision: str | None = None
    """Commit of a hub repository."""
    digest: Digest
    """Of the content."""


class Progress(Model):
    """One reading of a running job, served by rank 0 at GET /progress."""

    plan_digest: Digest
    attempt: int
    step: int
    steps: int
    reward: float | None = None
    """Mean reward per response of the last step, after normalising, clipping, weighting and summing."""
    kl: float | None = None
    """k1 summed over response tokens, mean over responses, in nats."""
    entropy: float | None = None
    """Mean entropy per token of the sampling distribution, in nats."""
    loss: float | None = None
    """RewardModel: training loss of the last step, weighted mean over its pairs, in nats; SFT, DPO, KTO: theirs."""
    accuracy: float | None = None
    """RewardModel, DPO: share of the last step's pairs that came out right before its update."""
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    checkpoint_step: int | None = None
    checkpoint_digest: Digest | None = None
    warnings: list[str] = []
    """Guards and scorers that warn at the moment, one line each, at most ten."""
    scorers: list[ScorerReading] = []
    sources: list[ResolvedInput] = []
    """What was fetched."""
    updated_at: datetime


class Comparison(Model):
    """Win rate of the trained policy over one baseline by one scorer; ties count one half."""

    scorer: str
    baseline: str
    win_rate: float
    lower: float
    """Lower bound of the 95 % interval (bootstrap by prompt)."""
    upper: float
    mean: float
    """Mean score of the trained policy."""
    baseline_mean: float
    prompts: int
    gain: float | None = None
    """Mean over rows of the trained policy's score minus the baseline's."""
    gain_lower: float | None = None
    """Lower bound of the gain's 95 % interval (bootstrap by prompt); None where every prompt gained the same."""
    gain_upper: float | None = None
    length_controlled: float | None = None
    """Win rate that would be seen at equal lengths: a logistic regression on the difference in length, at 0."""
    length_ratio: float | None = None
    """Mean length of the trained policy's texts over that of the baseline's, in characters."""


class SuiteScore(Model):
    """The trained policy against the base model on one suite."""

    suite: str
    scorer: str
    mean: float
    baseline_mean: float
    rows: int
    """Tasks with a score on both sides."""

    @property
    def drop(self) -> float:
        """How far the mean score fell."""
        return self.baseline_mean - self.mean


class SliceScore(Model):
    """The trained policy against the base model on the evaluation rows that share one value of a column."""

    scorer: str
    column: str
    value: str
    mean: float
    baseline_mean: float
    samples: int
    """Rows with a score on both sides."""

    @property
    def drop(self) -> float:
        """How far the mean score fell."""
        return self.baseline_mean - self.mean


class DatasetRecord(Model):
    """One data set as it was trained on."""

    name: str
    digest: Digest
    rows: int
    used: int
    dropped: dict[str, int] = {}
    """Dropped rows by reason."""


class CheckpointRecord(Model):
    """The newest complete checkpoint."""

    step: int
    digest: Digest


class ArtifactRecord(Model):
    """A published artifact: what status.artifact is made of."""

    ref: str
    """pvc://claim/path"""
    uri: str | None = None
    """Where its copy lies in an object store."""
    digest: Digest
    alias: str | None = None
    gate: str
    """Passed, Failed, NotEvaluated."""
    gate_message: str = ""
    signed: bool = False
    base_model_digest: Digest | None = None
    """None: a RewardModel of graders."""
    dataset_digests: list[Digest]
    plan_digest: Digest


class Result(Model):
    """result.json in the workspace: the whole outcome of a plan, written once by rank 0."""

    plan_digest: Digest
    attempt: int
    step: int
    finished_at: datetime
    policy: str
    """Folder of the trained policy or of the RewardModel's version, relative to the workspace."""
    policy_digest: Digest
    base_model_digest: Digest | None = None
    datasets: list[DatasetRecord]
    evaluation: list[Comparison] = []
    suites: list[SuiteScore] = []
    slices: list[SliceScore] = []
    """Those that fell furthest first, at most 200."""
    reward: list[RewardFigures] = []
    """RewardModel: what was measured, by dimension."""
    figures: dict[str, float] = {}
    checkpoint: CheckpointRecord | None = None
    world_size: int
    engine: str
    """Class of the engine that trained, with its ZeRO stage, as proved at start."""


class TerminationMessage(Model):
    """What a pod says when it ends; at most 3 KiB of JSON."""

    plan_digest: Digest
    attempt: int
    failure: FailureClass | None = None
    """None: success."""
    reason: str
    message: str
    step: int | None = None
    figures: dict[str, float] = Field(default_factory=dict, max_length=MAX_FIGURES)
    checkpoint: CheckpointRecord | None = None
    evaluation: list[Comparison] = []
    suites: list[SuiteScore] = []
    slices: list[SliceScore] = []
    """Those that fell furthest."""
    reward: RewardFigures | None = None
    """RewardModel: the figures of its weakest dimension; all are in the report."""
    artifact: ArtifactRecord | None = None
    sources: list[ResolvedInput] = []
    """What was fetched."""

    def encode(self) -> bytes:
        """Return at most 3 KiB of JSON: the message gives way first, then slices, suites, comparisons, figures."""
        shrunk = self.model_copy(update={"message": self.message[:1024]})
        steps: tuple[dict[str, object], ...] = (
            {},
            {"message": self.message[:256]},
            *(
                {name: getattr(self, name)[:count]}
                for name in ("slices", "suites", "evaluation")
                for count in reversed(range(len(getattr(self, name))))
            ),
            {"figures": {}},
            {"message": ""},
            {"sources": []},
        )
        for update in steps:
            shrunk = shrunk.model_copy(update=update)
            data = shrunk.model_dump_json(by_alias=True, exclude_none=True).encode()
            if len(data) <= TERMINATION_MESSAGE_BYTES:
                return data
        raise ValueError("termination message can't be made to fit")

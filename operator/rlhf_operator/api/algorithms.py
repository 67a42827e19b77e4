"""Training settings and the algorithm blocks of an RLHFJob. The mathematics is in rlhf_trainer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .base import Model, Rule
from .scalars import ColumnOrColumns, EntryName, Rate, below


class Algorithm(StrEnum):
    """The algorithm of a run, as status prints it."""

    PPO = "PPO"
    GRPO = "GRPO"
    RLOO = "RLOO"
    DPO = "DPO"
    KTO = "KTO"
    SFT = "SFT"


class Training(Model):
    """How long and how wide a run is."""

    one_of: ClassVar[tuple[str, ...]] = ("steps", "epochs")

    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Number of steps. A step is one batch of responses and its updates; for DPO, KTO and SFT one optimizer step."""
    epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Passes over the data set, instead of steps, where no responses are generated."""
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)]
    """Responses (rows) per step, over all devices."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Rows per device at a time: decides memory, not the mathematics."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 17
    """Seed of everything that is random."""


class Schedule(StrEnum):
    """How the learning rate falls after the warm-up."""

    COSINE = "Cosine"
    LINEAR = "Linear"
    CONSTANT = "Constant"


LearningRate = Annotated[float, Field(gt=0, le=1)]


class Optimizer(Model):
    """AdamW and its learning rate."""

    learning_rate: LearningRate = 1.0e-6
    """Highest learning rate."""
    schedule: Schedule = Schedule.COSINE
    """Cosine, Linear or Constant, after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Steps over which the learning rate rises from 0."""
    min_learning_rate_ratio: Rate = 0.1
    """Where Cosine and Linear end, as a share of learningRate."""
    weight_decay: Rate = 0.0
    """Decoupled weight decay."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.95]
    """AdamW's two decay rates."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Gradients are clipped to this norm."""


class SupervisedOptimizer(Optimizer):
    """AdamW for supervised training, which stands a higher learning rate than RL."""

    learning_rate: LearningRate = 1.0e-5
    """Highest learning rate."""


class Normalize(StrEnum):
    """How a score is brought to scale before it is clipped and weighted."""

    NONE = "None"
    REFERENCE = "Reference"
    RUNNING = "Running"


class Clip(Model):
    """Bounds of a normalised score."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!has(self.min) || !has(self.max) || self.min < self.max", "min must be less than max"),
    )

    min: Annotated[float, Field(ge=-1.0e6, le=1.0e6)] | None = None
    """Lowest value."""
    max: Annotated[float, Field(ge=-1.0e6, le=1.0e6)] | None = None
    """Highest value."""


class Reward(Model):
    """A scorer that is optimised: its score is normalised, clipped, weighted, and added to the others."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.weight != 0.0",
            "weight 0 optimises nothing: give the reward a weight, or list its scorer under monitors",
        ),
    )

    scorer: EntryName
    """Name of the scorer."""
    weight: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    """Its part in the sum; negative to punish."""
    normalize: Normalize = Normalize.NONE
    """None; Reference: mean and deviation over samples of the reference model; Running: over the run so far."""
    clip: Clip | None = None
    """Bounds after normalising."""


class KLController(StrEnum):
    """Whether the KL coefficient follows a target."""

    ADAPTIVE = "Adaptive"
    FIXED = "Fixed"


Coefficient = Annotated[float, Field(ge=0, le=1000)]
ClipRange = Annotated[float, Field(gt=0, le=10)]


class KLControl(Model):
    """The penalty that keeps the policy near the reference model."""

    coefficient: Coefficient = 0.05
    """Coefficient of the penalty; where Adaptive starts."""
    controller: KLController = KLController.ADAPTIVE
    """Adaptive moves the coefficient towards the target (Ziegler et al. 2019); Fixed leaves it."""
    target: Annotated[float, Field(gt=0, le=10_000)] = 6.0
    """KL that Adaptive aims at, in nats per response."""
    horizon: Annotated[int, Field(ge=1, le=1_000_000_000)] = 10_000
    """How slowly Adaptive reacts, in responses."""


class CriticInit(StrEnum):
    """What the value model starts from."""

    POLICY = "Policy"
    REWARD_MODEL = "RewardModel"


class Critic(Model):
    """The value model of PPO: a model of its own."""

    init_from: CriticInit = CriticInit.POLICY
    """Policy with a zero head, or the RewardModel when architecture and tokenizer are the same."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Steps in which only the critic learns."""
    optimizer: Optimizer | None = None
    """Its optimizer; by default with the settings of the policy's."""


class PPO(Model):
    """Proximal policy optimization (Schulman et al. 2017) with a value model."""

    epochs: Annotated[int, Field(ge=1, le=64)] = 4
    """Passes over each batch."""
    mini_batches: Annotated[int, Field(ge=1, le=1024)] = 4
    """Optimizer steps per pass."""
    clip_low: ClipRange = 0.2
    """How far the ratio may fall below 1."""
    clip_high: ClipRange = 0.2
    """How far the ratio may rise above 1."""
    value_clip: ClipRange = 0.2
    """How far a value may move from its old estimate."""
    gamma: Rate = 1.0
    """Discount."""
    lambda_: Rate = 0.95
    """Decay of generalized advantage estimation."""
    kl: KLControl = KLControl()
    """The KL penalty, part of the reward."""
    critic: Critic = Critic()
    """The value model."""


class GRPOLoss(StrEnum):
    """How GRPO averages token losses."""

    GRPO = "GRPO"
    DR_GRPO = "DrGRPO"
    DAPO = "DAPO"


class ScaleRewards(StrEnum):
    """What advantages are divided by."""

    NONE = "None"
    GROUP = "Group"
    BATCH = "Batch"


class GRPOKL(Model):
    """The KL term in GRPO's loss."""

    coefficient: Coefficient = 0.0
    """Coefficient; at 0 no reference model is loaded, unless a guard measures KL."""
    bias_correction: bool = True
    """Weigh the estimator by the importance ratio, so that its gradient is that of the KL."""


class GRPO(Model):
    """Group relative policy optimization: advantages within a group of responses to one prompt."""

    group_size: Annotated[int, Field(ge=2, le=1024)] = 8
    """Responses per prompt; at least 2, for there is nothing to compare with in a group of one."""
    iterations: Annotated[int, Field(ge=1, le=64)] = 1
    """Passes over each batch."""
    loss: GRPOLoss = GRPOLoss.DR_GRPO
    """DrGRPO, GRPO or DAPO."""
    scale_rewards: ScaleRewards = ScaleRewards.NONE
    """Divide advantages by the deviation of the Group, the Batch, or by nothing."""
    clip_low: ClipRange = 0.2
    """How far the ratio may fall below 1."""
    clip_high: ClipRange = 0.28
    """How far the ratio may rise above 1."""
    kl: GRPOKL = GRPOKL()
    """The KL term."""

    def warnings(self) -> list[str]:
        """What makes kl.coefficient mean something else than it says, with what to do."""
        found = []
        if self.kl.coefficient > 0 and self.scale_rewards is not ScaleRewards.NONE:
            found.append(
                f"grpo.scaleRewards {self.scale_rewards.value} divides advantages but not grpo.kl.coefficient, so how "
                "strongly the policy is held depends on how rewards spread: use scaleRewards None"
            )
        if self.kl.coefficient > 0 and not self.kl.bias_correction:
            found.append(
                "grpo.kl.biasCorrection false gives the penalty the gradient of the KL from the reference to the "
                "policy, not of the KL that is reported: use biasCorrection true"
            )
        return found


class RLOOKL(Model):
    """The KL penalty in RLOO's reward."""

    coefficient: Coefficient = 0.05
    """Coefficient."""


class RLOO(Model):
    """REINFORCE leave-one-out (Ahmadian et al. 2024)."""

    group_size: Annotated[int, Field(ge=2, le=1024)] = 4
    """Responses per prompt; at least 2, for each is compared with the others."""
    iterations: Annotated[int, Field(ge=1, le=64)] = 1
    """Passes over each batch."""
    clip_low: ClipRange = 0.2
    """How far the ratio may fall below 1."""
    clip_high: ClipRange = 0.2
    """How far the ratio may rise above 1."""
    normalize_advantages: bool = False
    """Whiten advantages over the batch."""
    kl: RLOOKL = RLOOKL()
    """The KL penalty."""


class DPOLoss(StrEnum):
    """The loss of DPO."""

    SIGMOID = "Sigmoid"
    IPO = "IPO"
    HINGE = "Hinge"


Beta = Annotated[float, Field(gt=0, le=100)]


class DPO(Model):
    """Direct preference optimization (Rafailov et al. 2023)."""

    beta: Beta = 0.1
    """How strongly the policy is held to the reference model."""
    loss: DPOLoss = DPOLoss.SIGMOID
    """Sigmoid, IPO or Hinge."""
    label_smoothing: Annotated[float, Field(ge=0), below(0.5)] = 0.0
    """Share of pairs assumed to be the wrong way round."""


class KTO(Model):
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024)."""

    beta: Beta = 0.1
    """How strongly the policy is held to the reference model."""
    desirable_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Weight of good responses."""
    undesirable_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Weight of bad responses."""


class SFT(Model):
    """Supervised fine-tuning on demonstrations."""


class LoraOutput(StrEnum):
    """What a LoRA run publishes."""

    ADAPTER = "Adapter"
    MERGED = "Merged"


class Lora(Model):
    """Train a low-rank adapter instead of all weights."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the adapter."""
    alpha: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Scale of the adapter: its output is multiplied by alpha ÷ rank."""
    target_modules: ColumnOrColumns = "all-linear"
    """Modules that are adapted: a name, a list of names, or all-linear."""
    output: LoraOutput = LoraOutput.ADAPTER
    """Adapter publishes the adapter alone, Merged the whole model."""

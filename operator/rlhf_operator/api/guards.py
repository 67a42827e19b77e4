"""Guards of an RLHFJob: limits on figures, and what happens when one is passed. Measuring is in rlhf_trainer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .algorithms import Algorithm, Normalize, Reward
from .base import Model, Rule
from .scalars import EntryName, Rate


class GuardAction(StrEnum):
    """What a guard does once its limit was passed for `patience` steps."""

    STOP = "Stop"
    WARN = "Warn"
    OFF = "Off"


class KLGuard(Model):
    """The policy has moved too far from the reference model."""

    max: Annotated[float, Field(gt=0, le=100_000)]
    """Highest KL, in nats per response."""


class SlowConvergenceGuard(Model):
    """The policy does not move; judged from step 2 on, for before the first update nothing can have moved."""

    min_kl: Annotated[float, Field(gt=0, le=100_000)]
    """Lowest KL, in nats per response."""


class EntropyGuard(Model):
    """The policy has collapsed onto few texts."""

    min: Annotated[float, Field(ge=0, le=100)]
    """Lowest mean entropy, in nats per token."""


class RewardHackingGuard(Model):
    """The reward rises while quality falls."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.drop) || has(self.monitor)",
            "drop is measured on a monitor: name one in monitor",
        ),
        Rule(
            "has(self.monitor) || has(self.minDistinctN) || has(self.maxLengthRatio)",
            "set monitor, minDistinctN or maxLengthRatio: there is nothing else to see reward hacking by",
        ),
    )

    monitor: EntryName | None = None
    """Monitor that must not fall while the reward rises."""
    drop: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """How far the monitor's mean may fall below the best so far while the reward is higher than it was then (default
    0.1)."""
    min_distinct_n: Rate | None = None
    """Lowest share of distinct pairs of tokens among all those of a batch's responses (distinct-2)."""
    max_length_ratio: Annotated[float, Field(gt=1, le=1000)] | None = None
    """Highest mean length of responses, as a multiple of the reference model's (those of step 1)."""


class RewardSaturationGuard(Model):
    """Most rewards sit at their bound, so that nothing is left to learn from."""

    max_share_at_bound: Annotated[float, Field(gt=0, le=1)]
    """Highest share of a reward's scores at the same bound of its clip."""


class AllMaskedGuard(Model):
    """Every response of a batch was left out of the loss."""


class LogProbDriftGuard(Model):
    """Sampler and trainer disagree about log-probabilities."""

    max: Annotated[float, Field(gt=0, le=1000)]
    """Highest mean absolute difference, in nats per token."""


class NonFiniteGuard(Model):
    """A loss, gradient or reward is not a finite number."""


class Guard(Model):
    """A limit on one figure. An entry replaces the default guard of the same name."""

    one_of: ClassVar[tuple[str, ...]] = (
        "kl",
        "slow_convergence",
        "entropy",
        "reward_hacking",
        "reward_saturation",
        "all_masked",
        "log_prob_drift",
        "non_finite",
    )
    immutable: ClassVar[tuple[str, ...]] = ("patience", *one_of)
    immutable_advice: ClassVar[str] = "of a guard only action may change; create a new RLHFJob for other limits"

    name: EntryName
    """Name of the guard, unique in the list."""
    kl: KLGuard | None = None
    """Stops a policy that moves too far."""
    slow_convergence: SlowConvergenceGuard | None = None
    """Notices a policy that does not move."""
    entropy: EntropyGuard | None = None
    """Notices a collapse."""
    reward_hacking: RewardHackingGuard | None = None
    """Notices rewards that rise while quality falls."""
    reward_saturation: RewardSaturationGuard | None = None
    """Notices rewards at their bound."""
    all_masked: AllMaskedGuard | None = None
    """Notices a batch without a loss."""
    log_prob_drift: LogProbDriftGuard | None = None
    """Notices a sampler that differs from the trainer."""
    non_finite: NonFiniteGuard | None = None
    """Notices NaN and infinity."""
    patience: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Steps in a row that must pass the limit."""
    action: GuardAction = GuardAction.STOP
    """Stop ends the run as failed, Warn says so in status and events, Off does nothing. May be changed at any time."""


DEFAULT_GUARDS: tuple[Guard, ...] = (Guard(name="finite", non_finite=NonFiniteGuard()),)
"""Guards of every run, unless an entry of the same name replaces them."""

DEFAULT_DROP = 0.1
"""`rewardHacking.drop` where there is a monitor and none is given."""

_GENERATE = frozenset({Algorithm.PPO, Algorithm.GRPO, Algorithm.RLOO})
_LEARNS_FROM_JUDGEMENTS = frozenset({Algorithm.DPO, Algorithm.KTO})
_ON_PROMPTS = frozenset({"kl", "entropy", "slow_convergence"})
"""Guards on figures that DPO and KTO measure behind some steps, by answering evaluation prompts."""


def unmeasured(
    kind: str, hacking: RewardHackingGuard | None, algorithm: Algorithm, rewards: Sequence[Reward]
) -> str | None:
    """Return why a run has no figure for a guard of this kind, and what to do; None when it has."""
    if kind == "non_finite" or (kind in _ON_PROMPTS and algorithm in _LEARNS_FROM_JUDGEMENTS):
        return None
    if algorithm not in _GENERATE:
        return f"{algorithm.value} generates no responses to measure it by: remove it"
    if kind == "reward_saturation" and all(reward.clip is None for reward in rewards):
        return "no reward has a clip, so no score is at a bound: set rewards[*].clip, or remove it"
    if hacking is not None and hacking.monitor is not None:
        moving = [reward.scorer for reward in rewards if reward.normalize is Normalize.RUNNING]
        if moving:
            return (
                f"the reward of {', '.join(moving)} is normalised by a running mean, which rises with it: set "
                "normalize to Reference or None, or leave monitor out"
            )
    return None

"""From scores to the one reward per response: normalise, clip, weight, sum. Scores come from rlhf_scoring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rlhf_operator.api.algorithms import Clip, Normalize, Reward
from rlhf_operator.api.base import Model
from rlhf_operator.api.generation import Truncation, TruncationMode

# Below this deviation a scorer says the same of every text: it is shifted, but not blown up.
_MIN_DEVIATION = 1e-6


class Moments(Model):
    """Count, mean and sum of squared deviations: enough to go on from (Chan et al. 1983)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def after(self, values: Tensor) -> "Moments":
        """Return the moments with [n] more values; missing ones (NaN) don't count."""
        values = values[~values.isnan()].double()
        count = int(values.numel())
        if count == 0:
            return self
        mean = float(values.mean())
        total = self.count + count
        shift = mean - self.mean
        squares = self.squares + float((values - mean).square().sum()) + shift * shift * self.count * count / total
        return Moments(count=total, mean=self.mean + shift * count / total, squares=squares)

    @property
    def deviation(self) -> float:
        """Standard deviation; 1 where it is too small to divide by."""
        if self.count < 2:
            return 1.0
        deviation = (self.squares / self.count) ** 0.5
        return float(deviation) if deviation > _MIN_DEVIATION else 1.0


class RewardState(Model):
    """What normalisation remembers; part of every checkpoint."""

    moments: dict[str, Moments] = Field(default_factory=dict)


@dataclass(frozen=True)
class Combined:
    """One reward per response."""

    rewards: Tensor
    """[batch] float64; 0 where `present` is False."""
    present: Tensor
    """[batch] bool: every reward's score was there."""
    figures: dict[str, float]


class RewardMix:
    """The rewards of a plan and what their normalisation remembers."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._rewards = list(rewards)
        self.state = RewardState()

    @property
    def needs_reference(self) -> bool:
        """Whether scores of reference samples are wanted before the first step."""
        return any(
            reward.normalize is Normalize.REFERENCE and reward.scorer not in self.state.moments
            for reward in self._rewards
        )

    def set_reference(self, scores: Mapping[str, Tensor]) -> None:
        """Fix the scale of `normalize: Reference` from scores of the reference model's samples, [n] each."""
        self._remember(
            {
                reward.scorer: Moments().after(scores[reward.scorer])
                for reward in self._rewards
                if reward.normalize is Normalize.REFERENCE
            }
        )

    def combine(self, scores: Mapping[str, Tensor]) -> Combined:
        """Turn scores (by scorer, [batch] float64, NaN where missing) into one reward per response."""
        for reward in self._rewards:
            if reward.normalize is Normalize.RUNNING:
                before = self.state.moments.get(reward.scorer, Moments())
                self._remember({reward.scorer: before.after(scores[reward.scorer])})
        first = next(iter(scores.values()))
        total = torch.zeros_like(first, dtype=torch.float64)
        present = torch.ones_like(first, dtype=torch.bool)
        figures: dict[str, float] = {}
        for reward in self._rewards:
            raw = scores[reward.scorer].double()
            there = ~raw.isnan()
            scaled = self._scale(reward, raw)
            clipped = scaled
            if reward.clip is not None:
                clipped = scaled.clamp(min=reward.clip.min, max=reward.clip.max)
                figures[f"shareAtBound/{reward.scorer}"] = share_at_bound(scaled[there], reward.clip)
            figures[f"rewardClipped/{reward.scorer}"] = share((clipped != scaled) & there, there)
            figures |= present_mean(f"rewardPart/{reward.scorer}", reward.weight * clipped)
            total = total + reward.weight * clipped
            present &= there
        return Combined(torch.where(present, total, torch.zeros_like(total)), present, figures)

    def _scale(self, reward: Reward, raw: Tensor) -> Tensor:
        if reward.normalize is Normalize.NONE:
            return raw
        moments = self.state.moments[reward.scorer]
        return (raw - moments.mean) / moments.deviation

    def _remember(self, moments: Mapping[str, Moments]) -> None:
        self.state = RewardState(moments={**self.state.moments, **moments})


def judge_truncated(combined: Combined, finished: Tensor, truncation: Truncation) -> tuple[Tensor, Tensor]:
    """Apply the plan's treatment of responses that did not end by themselves.

    finished: [batch] bool. Returns rewards [batch] float64 and which rows stay in the loss, [batch] bool.
    """
    cut = ~finished
    if truncation.mode is TruncationMode.PENALTY:
        punished = combined.rewards - truncation.penalty
        return torch.where(cut & combined.present, punished, combined.rewards), combined.present
    if truncation.mode is TruncationMode.MASK:
        return combined.rewards, combined.present & finished
    return combined.rewards, combined.present


def score_figures(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean, deviation and share of missing scores by scorer; of a scorer that gave none, the share alone."""
    figures: dict[str, float] = {}
    for name, values in scores.items():
        there = values[~values.isnan()]
        figures |= present_mean(f"score/{name}", values)
        if there.numel():
            figures[f"scoreDeviation/{name}"] = float(there.std(unbiased=False))
        figures[f"scoreMissing/{name}"] = 1.0 - there.numel() / max(1, values.numel())
    return figures


def present_mean(name: str, values: Tensor) -> dict[str, float]:
    """The figure `name`, the mean of what is there; no figure when nothing is, for a 0 would be taken for a score."""
    there = values[~values.isnan()]
    return {name: float(there.mean())} if there.numel() else {}


def share(part: Tensor, whole: Tensor) -> float:
    """Share of true entries, both [n] bool; 0 of nothing is 0."""
    return float(part.sum()) / max(1.0, float(whole.sum()))


def share_at_bound(scores: Tensor, clip: Clip) -> float:
    """Share of scores at or beyond the bound that more of them have reached. scores: [n]; 0 of nothing is 0.

    Not both bounds together: where a grader says 0 or 1 and the bounds are 0 and 1 there is all to learn from.
    """
    if scores.numel() == 0:
        return 0.0
    reached = [scores <= clip.min] if clip.min is not None else []
    reached += [scores >= clip.max] if clip.max is not None else []
    return max((float(each.double().mean()) for each in reached), default=0.0)


def scores_tensor(scores: Sequence[float | None], **options: Any) -> Tensor:
    """Scores as [n] float64, NaN where missing."""
    return torch.tensor([float("nan") if score is None else score for score in scores], dtype=torch.float64, **options)

"""Proximal policy optimization as tensor functions (Schulman et al. 2017). No models, no processes, no files.

Read it from the top, in the order of one step:

1. `shaped_rewards`: the score on the last token, minus the KL penalty on every token.
2. `gae`: advantages and returns, bootstrapped with 0 behind the last token.
3. `whiten`: advantages with mean 0 and deviation 1 over the global batch.
4. `policy_loss` and `value_loss`: clipped, summed over tokens and divided by the token count of the whole optimizer
   step, so that ranks and micro-batches add up to the same number however the step is cut.
5. `AdaptiveKL`: the coefficient of the penalty follows a target.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def kl_k1(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """KL(policy ‖ reference) by the k1 estimator: per response, the sum over its tokens of log π − log π_ref, in nats.

    logprobs, reference, mask: [batch, response]. Returns [batch].
    """
    return ((logprobs - reference) * mask).sum(dim=1)


def shaped_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Rewards per token: −β (log π − log π_ref) on each, and the score on the response's last token.

    scores: [batch]; logprobs, reference, mask: [batch, response], mask 1 on response tokens, which come first in their
    row. Returns [batch, response].
    """
    rewards = -kl_coefficient * (logprobs - reference) * mask
    length = mask.sum(dim=1).long()
    last = (length - 1).clamp(min=0).unsqueeze(1)
    terminal = torch.where(length > 0, scores, torch.zeros_like(scores)).unsqueeze(1)
    return rewards.scatter_add(1, last, terminal)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16); the value behind the last token is 0.

    rewards, values, mask: [batch, response], mask 1 on response tokens. Returns advantages, returns: [batch, response].
    """
    values = values * mask
    following = torch.zeros_like(values[:, 0])
    advantage = torch.zeros_like(values[:, 0])
    advantages = torch.zeros_like(values)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following - values[:, t]
        advantage = (delta + gamma * lam * advantage) * mask[:, t]
        advantages[:, t] = advantage
        following = values[:, t]
    return advantages, (advantages + values) * mask


def whiten(values: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the masked tokens of the global batch.

    values, mask: [batch, response]. Returns the same shape, 0 outside the mask.
    """
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    variance = ((values - mean).square() * mask).sum() / count
    return (values - mean) * torch.rsqrt(variance + epsilon) * mask


@dataclass(frozen=True)
class LossParts:
    """A loss and what is worth reporting of it. Each is a sum over this part's tokens, not yet a mean."""

    loss: Tensor
    """Scalar with a gradient: already divided by the token count of the whole optimizer step."""
    clipped: Tensor
    """Tokens whose clipped term was the one that counted."""
    approximate_kl: Tensor
    """Sum of ½ (log π_new − log π_old)²: how far this update has moved the policy (k2)."""


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    step_tokens: Tensor,
) -> LossParts:
    """Clipped surrogate objective (Schulman et al. 2017, eq. 7) with its two clip ranges apart.

    logprobs, old_logprobs, advantages, mask: [batch, response]; step_tokens: scalar, the masked tokens of the whole
    optimizer step over all ranks and micro-batches.
    """
    difference = (logprobs - old_logprobs) * mask
    ratio = difference.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = (torch.maximum(unclipped, clipped) * mask).sum() / step_tokens
    return LossParts(
        loss=loss,
        clipped=((clipped > unclipped) * mask).sum().detach(),
        approximate_kl=(0.5 * difference.square()).sum().detach(),
    )


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, value_clip: float, step_tokens: Tensor
) -> LossParts:
    """Squared error of the value model, clipped around its old estimate; halved.

    values, old_values, returns, mask: [batch, response]; step_tokens as in `policy_loss`.
    """
    near = old_values + (values - old_values).clamp(-value_clip, value_clip)
    error = (values - returns).square()
    clipped_error = (near - returns).square()
    loss = 0.5 * (torch.maximum(error, clipped_error) * mask).sum() / step_tokens
    return LossParts(
        loss=loss,
        clipped=((clipped_error > error) * mask).sum().detach(),
        approximate_kl=torch.zeros_like(loss.detach()),
    )


@dataclass(frozen=True)
class AdaptiveKL:
    """The coefficient of the KL penalty as a proportional controller (Ziegler et al. 2019, section 2.2)."""

    coefficient: float
    target: float
    """KL to aim at, in nats per response."""
    horizon: int
    """How slowly it reacts, in responses."""

    def after(self, kl: float, responses: int) -> "AdaptiveKL":
        """Return the controller after a batch of `responses` with mean `kl` in nats per response."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return AdaptiveKL(self.coefficient * (1.0 + error * responses / self.horizon), self.target, self.horizon)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Share of the returns' variance that the values explain; 0 when the returns don't vary.

    values, returns, mask: [batch, response].
    """
    count = mask.sum().clamp(min=1)
    mean = (returns * mask).sum() / count
    total = ((returns - mean).square() * mask).sum()
    left = ((returns - values).square() * mask).sum()
    return float(1.0 - left / total) if float(total) > 0 else 0.0

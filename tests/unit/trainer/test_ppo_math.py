"""PPO's tensor functions against numbers worked out by hand or by another way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.algorithms.ppo import (
    AdaptiveKL,
    explained_variance,
    gae,
    kl_k1,
    policy_loss,
    shaped_rewards,
    value_loss,
    whiten,
)


def test_gae_is_the_discounted_sum_of_deltas() -> None:
    rewards = torch.tensor([[1.0, 0.0, 2.0, 9.0]])
    values = torch.tensor([[0.5, 0.25, 1.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    gamma, lam = 0.9, 0.8
    deltas = [1.0 + 0.9 * 0.25 - 0.5, 0.0 + 0.9 * 1.0 - 0.25, 2.0 - 1.0]
    expected = [sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, 3)) for i in range(3)]
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    assert advantages[0, :3].tolist() == pytest.approx(expected)
    assert returns[0, :3].tolist() == pytest.approx([a + v for a, v in zip(expected, [0.5, 0.25, 1.0], strict=True)])
    assert advantages[0, 3] == 0
    assert returns[0, 3] == 0


def test_gae_with_lambda_one_and_no_discount_is_the_return_minus_the_value() -> None:
    torch.manual_seed(1)
    rewards, values = torch.randn(3, 6), torch.randn(3, 6)
    advantages, returns = gae(rewards, values, torch.ones(3, 6), 1.0, 1.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(advantages, to_go - values)
    torch.testing.assert_close(returns, to_go)


def test_the_score_falls_on_the_last_token_and_the_penalty_on_every_token() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]])
    reference = torch.tensor([[-1.5, -2.0, -9.0], [-2.0, -2.0, -2.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    rewards = shaped_rewards(torch.tensor([10.0, 20.0]), logprobs, reference, mask, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 10.0, 0.0], [-0.1, -0.1, 19.9]]))
    torch.testing.assert_close(kl_k1(logprobs, reference, mask), torch.tensor([0.5, 3.0]))


def test_a_response_that_left_the_batch_gets_no_reward() -> None:
    rewards = shaped_rewards(torch.tensor([5.0]), torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), 0.1)
    assert rewards.abs().sum() == 0


def test_whitening_sees_only_the_masked_tokens() -> None:
    values = torch.tensor([[1.0, 2.0, 1e6], [3.0, 4.0, 5.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    white = whiten(values, mask)
    kept = white[mask.bool()]
    assert float(kept.mean()) == pytest.approx(0, abs=1e-6)
    assert float(kept.std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert white[0, 2] == 0


def test_the_ratio_is_cut_low_and_high_apart() -> None:
    old = torch.zeros(1, 4)
    new = torch.log(torch.tensor([[1.5, 0.5, 1.5, 0.5]])).requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    parts = policy_loss(new, old, advantages, torch.ones(1, 4), 0.1, 0.3, torch.tensor(4.0))
    # Cut where it would gain more by going further away: the first at 1.3, the second at 0.9.
    assert float(parts.loss.detach()) == pytest.approx((-1.3 + 0.9 + 1.5 - 0.5) / 4)
    parts.loss.backward()
    assert new.grad is not None
    assert new.grad[0].tolist() == pytest.approx([0.0, 0.0, 1.5 / 4, -0.5 / 4])
    assert float(parts.clipped) == 2


def test_the_first_pass_has_the_gradient_of_the_policy_gradient_theorem() -> None:
    new = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, -3.0]])
    policy_loss(new, new.detach(), advantages, torch.ones(1, 2), 0.2, 0.2, torch.tensor(2.0)).loss.backward()
    assert new.grad is not None
    torch.testing.assert_close(new.grad, -advantages / 2)


def test_a_value_that_ran_from_its_old_estimate_has_no_gradient() -> None:
    values = torch.tensor([[2.0, 0.1]], requires_grad=True)
    parts = value_loss(values, torch.zeros(1, 2), torch.tensor([[0.15, 1.0]]), torch.ones(1, 2), 0.2, torch.tensor(2.0))
    # First: the true error counts, for it is the larger. Second: within the range.
    assert float(parts.loss.detach()) == pytest.approx(0.5 * ((2.0 - 0.15) ** 2 + 0.9**2) / 2)
    far = torch.tensor([[0.9]], requires_grad=True)
    value_loss(far, torch.zeros(1, 1), torch.tensor([[1.0]]), torch.ones(1, 1), 0.2, torch.tensor(1.0)).loss.backward()
    assert far.grad is not None
    assert float(far.grad) == 0


@given(st.integers(1, 7), st.integers(0, 1000))
def test_losses_of_the_parts_add_up_to_the_loss_of_the_whole(cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    new, old, advantages = (torch.randn(8, 5, generator=generator) for _ in range(3))
    mask = (torch.rand(8, 5, generator=generator) < 0.7).float()
    tokens = mask.sum()
    whole = policy_loss(new, old, advantages, mask, 0.2, 0.2, tokens).loss
    parts = [
        policy_loss(new[r], old[r], advantages[r], mask[r], 0.2, 0.2, tokens).loss for r in (slice(cut), slice(cut, 8))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_the_adaptive_controller_moves_towards_its_target_by_at_most_a_fifth_per_horizon() -> None:
    kl = AdaptiveKL(0.1, target=6.0, horizon=1000)
    assert kl.after(6.0, 100).coefficient == pytest.approx(0.1)
    assert kl.after(600.0, 100).coefficient == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert kl.after(0.0, 100).coefficient == pytest.approx(0.1 * (1 - 0.2 * 0.1))
    assert kl.after(6.6, 100).coefficient == pytest.approx(0.1 * (1 + 0.1 * 0.1))


def test_explained_variance_is_one_for_perfect_values_and_zero_for_a_constant() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0]])
    assert explained_variance(returns, returns, torch.ones(1, 3)) == pytest.approx(1)
    assert explained_variance(torch.full((1, 3), 2.0), returns, torch.ones(1, 3)) == pytest.approx(0)
    assert math.isfinite(explained_variance(returns, torch.ones(1, 3), torch.ones(1, 3)))

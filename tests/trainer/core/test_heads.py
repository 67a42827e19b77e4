"""Log-probabilities in chunks are those of the whole; values start at zero; padding changes nothing."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_trainer.errors import ConfigError
from rlhf_trainer.policy import heads
from rlhf_trainer.policy.generation import SamplingSettings, _finish, pad_prompts
from rlhf_trainer.policy.heads import PolicyModel, ValueModel
from rlhf_trainer.policy.load import check_head


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).eval()


@pytest.mark.parametrize("reentrant", [True, False])
def test_chunks_give_the_log_probabilities_entropies_and_gradients_of_the_whole(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    ids, mask = torch.randint(0, 50, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    expected = (model(input_ids=ids).logits[:, 3:-1] / 0.7).log_softmax(-1)
    chosen = expected.gather(2, ids[:, 4:].unsqueeze(2)).squeeze(2)
    entropy = -(expected.exp() * expected).sum(-1)
    chosen.sum().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()

    monkeypatch.setattr(heads, "CHUNK_BYTES", 4 * 50 * 4)
    found, spread = PolicyModel(model, temperature=0.7, reentrant=reentrant)(ids, mask, 4)
    torch.testing.assert_close(found, chosen)
    torch.testing.assert_close(spread, entropy)
    found.sum().backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[name])


def test_padding_on_either_side_changes_no_log_probability(model: LlamaForCausalLM) -> None:
    policy = PolicyModel(model, temperature=1.0)
    prompt, answer = [5, 6, 7], [8, 9]
    alone, _ = policy(torch.tensor([prompt + answer]), torch.ones(1, 5, dtype=torch.int64), 3)
    tokens, mask = pad_prompts([prompt, [1] * 6], 6, 0, torch.device("cpu"))
    answers = torch.tensor([[8, 9, 0, 0], [1, 2, 3, 4]])
    answer_mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    padded, _ = policy(torch.cat([tokens, answers], 1), torch.cat([mask, answer_mask], 1), 6)
    torch.testing.assert_close(padded[0, :2], alone[0], atol=1e-5, rtol=1e-5)


def test_the_critic_starts_at_zero_everywhere(model: LlamaForCausalLM) -> None:
    values = ValueModel(model.model, 32)(torch.randint(0, 50, (2, 7)), torch.ones(2, 7, dtype=torch.int64), 3)
    assert values.shape == (2, 4)
    assert not values.any()


def test_an_architecture_that_changes_its_logits_is_refused(model: LlamaForCausalLM) -> None:
    check_head(model)

    class Scaled(LlamaForCausalLM):
        def forward(self, **inputs: Any) -> Any:
            output = super().forward(**inputs)
            output.logits = 0.1 * output.logits
            return output

    scaled = Scaled(model.config).eval()
    # Far from uniform, so that a tenth of the logits is another distribution.
    scaled.lm_head.weight.data.mul_(200)
    with pytest.raises(ConfigError, match="changes its logits"):
        check_head(scaled)


def test_the_first_end_token_ends_a_response_whatever_pads_it() -> None:
    settings = SamplingSettings(max_tokens=5, temperature=1.0, end_tokens=[0, 9], pad_token=0, stop=[])
    tokens = torch.tensor([[3, 9, 0, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5], [1, 2, 3, 4, 9]])
    found = _finish(tokens, torch.full(tokens.shape, -1.0), settings, None)
    assert found.mask.sum(dim=1).tolist() == [2, 1, 5, 5]
    assert found.logprobs.sum(dim=1).tolist() == [-2, -1, -5, -5]
    assert found.finished.tolist() == [True, True, False, True]

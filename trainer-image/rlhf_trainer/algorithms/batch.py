"""A step's responses with everything the update needs, the same on every rank. Making them is in rollout.py."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rlhf_trainer.distributed import Group

from .ppo import kl_k1


@dataclass(frozen=True)
class RolloutBatch:
    """Sampled responses and what the models at the time of sampling said of them.

    Prompts are left-padded, responses right-padded; `sampled`, `logprobs`, `reference`, `values` and `entropy` are
    float32 and [batch, response], meaningful where `response_mask` is 1.
    """

    prompt_tokens: Tensor
    """[batch, prompt] int64."""
    prompt_mask: Tensor
    """[batch, prompt] int64."""
    response_tokens: Tensor
    """[batch, response] int64."""
    response_mask: Tensor
    """[batch, response] float32."""
    finished: Tensor
    """[batch] bool: the response ended by itself."""
    sampled: Tensor
    """Log-probabilities as the sampler drew."""
    logprobs: Tensor
    """Log-probabilities under the policy that sampled, by the trainer's own forward pass."""
    reference: Tensor
    """Log-probabilities under the reference model."""
    values: Tensor
    """The critic's values."""
    entropy: Tensor
    """Entropy of the sampling distribution, in nats."""

    def __len__(self) -> int:
        """Number of responses."""
        return int(self.response_tokens.shape[0])

    def select(self, rows: Tensor) -> "RolloutBatch":
        """Return the given rows. rows: [n] int64."""
        return RolloutBatch(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def gathered(self, group: Group) -> "RolloutBatch":
        """Join every rank's rows in rank order; the shapes must be the same on all ranks."""
        return RolloutBatch(
            **{
                field.name: group.gather_rows(getattr(self, field.name), f"the gathering of {field.name}")
                for field in fields(self)
            }
        )

    @property
    def tokens(self) -> float:
        """Tokens of prompts and responses, without padding."""
        return float(self.prompt_mask.sum() + self.response_mask.sum())

    def figures(self) -> dict[str, float]:
        """What is to be said of responses, whichever algorithm learns from them."""
        kl = kl_k1(self.logprobs, self.reference, self.response_mask)
        tokens = self.response_mask.sum()
        drift = ((self.logprobs - self.sampled).abs() * self.response_mask).sum()
        return {
            **response_figures(self.response_tokens, self.response_mask, self.finished),
            "kl": float(kl.mean()),
            "klPerToken": float(kl.sum() / tokens),
            "entropy": float((self.entropy * self.response_mask).sum() / tokens),
            "logProbDrift": float(drift / tokens),
            "paddingShare": 1.0 - self.tokens / (self.prompt_mask.numel() + self.response_mask.numel()),
        }

    def inputs(self) -> tuple[Tensor, Tensor, int]:
        """What the models are called with: tokens and mask, both [batch, prompt + response], and the prompt length."""
        return model_inputs(self.prompt_tokens, self.prompt_mask, self.response_tokens, self.response_mask)


def response_figures(tokens: Tensor, mask: Tensor, finished: Tensor) -> dict[str, float]:
    """What responses say by themselves. tokens, mask: [batch, response]; finished: [batch] bool."""
    lengths = mask.sum(dim=1)
    return {
        "batchSize": float(len(tokens)),
        "responseTokens": float(lengths.mean()),
        "responseTokensP50": float(torch.quantile(lengths, 0.5)),
        "responseTokensP95": float(torch.quantile(lengths, 0.95)),
        "responseTokensMax": float(lengths.max()),
        "truncatedShare": float((~finished).double().mean()),
        "distinct2": distinct_pairs(tokens, mask),
    }


def distinct_pairs(tokens: Tensor, mask: Tensor) -> float:
    """The share of distinct pairs of successive tokens among all of a batch (distinct-2; Li et al. 2016).

    tokens: [batch, response] int64, mask: [batch, response]. 0 where no response has two tokens.
    """
    both = (mask[:, 1:] * mask[:, :-1]).bool()
    pairs = (tokens[:, :-1] << 32 | tokens[:, 1:])[both]
    return len(pairs.unique()) / max(1, len(pairs))


def model_inputs(
    prompt_tokens: Tensor, prompt_mask: Tensor, response_tokens: Tensor, response_mask: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Join prompts and responses: tokens and mask, both [batch, prompt + response] int64, and the prompt length."""
    tokens = torch.cat([prompt_tokens, response_tokens], dim=1)
    mask = torch.cat([prompt_mask, response_mask.long()], dim=1)
    return tokens, mask, int(prompt_tokens.shape[1])

"""What training computes with a language model: log-probabilities in chunks, and values. No optimizer, no files."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# The largest piece of float32 logits that is ever held: [tokens of a chunk, vocabulary].
CHUNK_BYTES = 64 << 20


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that start at 0 with each row's first real token, as generation counts them.

    attention_mask: [batch, tokens]. Returns [batch, tokens] int64.
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def token_statistics(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of the distribution it was drawn from, in nats.

    logits: [n, vocabulary], tokens: [n]. Returns two [n] float32.
    """
    scaled = logits.float() / temperature
    normalizer = torch.logsumexp(scaled, dim=-1)
    logprobs = scaled.gather(1, tokens.unsqueeze(1)).squeeze(1) - normalizer
    with torch.no_grad():
        entropy = normalizer - ((scaled - normalizer.unsqueeze(1)).exp() * scaled).sum(dim=-1)
    return logprobs, entropy


class PolicyModel(nn.Module):
    """A causal language model that answers with the log-probabilities of given responses."""

    def __init__(self, model: Any, temperature: float, reentrant: bool = False) -> None:
        """Wrap `model`; `reentrant` picks the kind of recomputation that ZeRO-3's partitioned weights stand."""
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.reentrant = reentrant

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> tuple[Tensor, Tensor]:
        """Judge the tokens behind the prompt.

        input_ids, attention_mask: [batch, prompt + response]. Returns log-probabilities and entropies, both
        [batch, response] float32, under logits / temperature: what sampling draws from.
        """
        hidden = self.model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
        ).last_hidden_state[:, prompt_length - 1 : -1]
        tokens = input_ids[:, prompt_length:]
        batch, response, width = hidden.shape
        logprobs, entropy = self._in_chunks(hidden.reshape(batch * response, width), tokens.reshape(-1))
        return logprobs.view(batch, response), entropy.view(batch, response)

    def _in_chunks(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        head = self.model.get_output_embeddings()
        per_chunk = max(1, CHUNK_BYTES // (4 * int(self.model.config.vocab_size)))
        if hidden.shape[0] <= per_chunk:
            return token_statistics(head(hidden), tokens, self.temperature)

        def one(part: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
            return token_statistics(head(part), chosen, self.temperature)

        found = [
            checkpoint(one, part, chosen, use_reentrant=self.reentrant)
            if torch.is_grad_enabled()
            else one(part, chosen)
            for part, chosen in zip(hidden.split(per_chunk), tokens.split(per_chunk), strict=True)
        ]
        return torch.cat([pair[0] for pair in found]), torch.cat([pair[1] for pair in found])


class ValueModel(nn.Module):
    """The critic: a backbone of its own and a head that starts at zero."""

    def __init__(self, backbone: Any, width: int) -> None:
        """Take the backbone of a causal language model whose hidden size is `width`."""
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """Value of the state before each response token.

        input_ids, attention_mask: [batch, prompt + response]. Returns [batch, response] float32.
        """
        hidden = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
        ).last_hidden_state[:, prompt_length - 1 : -1]
        values: Tensor = self.head(hidden).squeeze(-1)
        return values.float()

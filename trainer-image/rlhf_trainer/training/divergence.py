"""How far a policy that learns from given texts is from its reference model: KL on responses that it generates."""

from typing import Any

import torch
from torch import Tensor

from rlhf_trainer import evaluate
from rlhf_trainer.algorithms.batch import model_inputs
from rlhf_trainer.algorithms.ppo import kl_k1
from rlhf_trainer.data import Prepared, PreparedRow
from rlhf_trainer.policy.generation import MICRO_BATCHES_AT_ONCE, pad_prompts, sample
from rlhf_trainer.policy.heads import position_ids, token_statistics
from rlhf_trainer.sampling import row_keys

from .attempt import Attempt, Whole

PROMPTS = 64
"""Prompts that are answered to measure."""
SPARSE = frozenset({"kl", "klPerToken", "entropy"})
"""The figures, which are there behind some steps only."""


class Divergence:
    """KL of the policy to the reference model: k1 summed over response tokens, mean over responses, in nats."""

    def __init__(self, attempt: Attempt, prompts: Prepared, steps: int) -> None:
        """Answer the first of these prompts."""
        self._attempt = attempt
        self._steps = steps
        evaluation = attempt.plan.evaluation
        every = evaluation.every_steps if evaluation is not None else None
        self._every = every or attempt.plan.checkpoints.every_steps
        world = attempt.group.world_size
        # Every rank has as many: partitioned models must make the same calls everywhere.
        count = max(world, min(PROMPTS, len(prompts)) // world * world)
        self._rows = [prompts[place % len(prompts)] for place in range(count)]

    def at(self, step: int, whole: Whole, reference: Any) -> dict[str, float]:
        """Measure behind every so many steps and behind the last; nothing in between."""
        if step % self._every and step != self._steps:
            return {}
        group, micro = self._attempt.group, self._attempt.options.micro_batch_size
        rows = [self._rows[place] for place in group.share(len(self._rows))]
        sums = torch.zeros(4, dtype=torch.float64, device=group.device)
        with whole() as module, torch.no_grad():
            for first in range(0, len(rows), micro * MICRO_BATCHES_AT_ONCE):
                part = rows[first : first + micro * MICRO_BATCHES_AT_ONCE]
                sums += self._sums(module, reference, part, micro)
        kl, entropy, tokens, responses = group.sum(sums, "the sum of KL").tolist()
        return {"kl": kl / responses, "klPerToken": kl / tokens, "entropy": entropy / tokens}

    def _sums(self, module: Any, reference: Any, rows: list[PreparedRow], micro: int) -> Tensor:
        """KL, entropy, tokens and responses, each summed. Shape [4] float64."""
        attempt, sampling = self._attempt, self._attempt.sampling
        device = attempt.group.device
        seeds = [evaluate.row_seed(attempt.plan.training.seed, row.number) for row in rows]
        keys = row_keys(0, "evaluation", 0, torch.tensor(seeds, dtype=torch.int64)).to(device)
        prompts = [list(row.prompt_ids) for row in rows]
        found = sample(module.model, prompts, keys, sampling, attempt.tokenizer, len(rows), attempt.beat)
        tokens, mask = pad_prompts(prompts, max(map(len, prompts)), sampling.pad_token, device)
        inputs, whole_mask, width = model_inputs(tokens, mask, found.tokens, found.mask)
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        for first in range(0, len(rows), micro):
            part = slice(first, first + micro)
            ids, attention, answer = inputs[part], whole_mask[part], found.mask[part]
            logprobs, entropy = module(ids, attention, width)
            before = self._reference(reference, ids, attention, width)
            kl = kl_k1(logprobs, before, answer).sum()
            sums += torch.stack([kl, (entropy * answer).sum(), answer.sum(), torch.tensor(float(len(ids)))]).double()
        return sums

    def _reference(self, reference: Any, ids: Tensor, attention: Tensor, width: int) -> Tensor:
        """The reference model's log-probabilities of the responses. Shape [batch, response] float32."""
        logits = reference(
            input_ids=ids, attention_mask=attention, position_ids=position_ids(attention), use_cache=False
        ).logits[:, width - 1 : -1]
        batch, response, vocabulary = logits.shape
        logprobs, _ = token_statistics(
            logits.reshape(batch * response, vocabulary), ids[:, width:].reshape(-1), self._attempt.sampling.temperature
        )
        return logprobs.view(batch, response)

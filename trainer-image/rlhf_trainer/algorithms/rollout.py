"""Making a step's batch: sample, score, and let every model judge the responses. Training on it is elsewhere."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_trainer.distributed import Group
from rlhf_trainer.engine import Engine
from rlhf_trainer.policy.generation import (
    MICRO_BATCHES_AT_ONCE,
    Responses,
    SamplingSettings,
    pad_prompts,
    sample,
    texts_of,
)
from rlhf_trainer.scoring import DataRow, StepScorer

from .batch import RolloutBatch, model_inputs


@dataclass(frozen=True)
class Rollout:
    """A step's batch, its scores, and how long the making took."""

    batch: RolloutBatch
    """Global: every rank's rows."""
    scores: dict[str, Tensor]
    """By scorer, [batch] float64, NaN where missing."""
    seconds: dict[str, float]


@dataclass(frozen=True)
class RolloutWorker:
    """The models and settings with which one rank makes its share of a batch."""

    group: Group
    policy: Engine
    reference: Callable[..., Any]
    critic: Engine
    tokenizer: Any
    sampling: SamplingSettings
    micro_batch_size: int
    scorer: StepScorer
    beat: Callable[[], None]

    def make(self, step: int, rows: Sequence[DataRow], keys: Tensor) -> Rollout:
        """Make the batch of a step from this rank's rows.

        keys: [rows] int64, one per row. Every rank has the same number of rows and gets the same global batch.
        """
        started = time.monotonic()
        prompts = [list(row.prompt_ids) for row in rows]
        responses = self.sample(prompts, keys)
        generated = time.monotonic()
        scores = self.score(step, rows, responses)
        scored = time.monotonic()
        local = self._judge(prompts, responses)
        batch = local.gathered(self.group)
        judged = time.monotonic()
        seconds = {
            "secondsGenerate": generated - started,
            "secondsScore": scored - generated,
            "secondsForward": judged - scored,
        }
        return Rollout(batch, scores, seconds)

    def sample(self, prompts: Sequence[Sequence[int]], keys: Tensor) -> Responses:
        """Draw one response per prompt from the policy as it is."""
        with self.policy.whole() as module:
            return sample(
                module.model,
                prompts,
                keys,
                self.sampling,
                self.tokenizer,
                self.micro_batch_size * MICRO_BATCHES_AT_ONCE,
                self.beat,
            )

    def score(self, step: int, rows: Sequence[DataRow], responses: Responses) -> dict[str, Tensor]:
        """Score this rank's responses; returns those of all ranks, by scorer, [world × rows] float64."""
        return self.scorer.score(step, rows, texts_of(responses, self.tokenizer, self.sampling.stop))

    @torch.no_grad()
    def _judge(self, prompts: Sequence[Sequence[int]], responses: Responses) -> RolloutBatch:
        """Log-probabilities, entropies and values of this rank's responses, in micro-batches."""
        # All ranks pad to the same lengths: partitioned models must make the same calls everywhere.
        width = self.group.maximum(max(len(prompt) for prompt in prompts), "the longest prompt")
        length = self.group.maximum(int(responses.mask.sum(dim=1).max()), "the longest response")
        tokens, mask = pad_prompts(prompts, width, self.sampling.pad_token, self.group.device)
        answer, answer_mask = responses.tokens[:, :length], responses.mask[:, :length]
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for part in torch.arange(len(prompts), device=tokens.device).split(self.micro_batch_size):
            inputs = model_inputs(tokens[part], mask[part], answer[part], answer_mask[part])
            logprobs, entropy = self.policy(*inputs)
            reference, _ = self.reference(*inputs)
            found.append((logprobs, entropy, reference, self.critic(*inputs)))
        logprobs, entropy, reference, values = (torch.cat(column) for column in zip(*found, strict=True))
        return RolloutBatch(
            prompt_tokens=tokens,
            prompt_mask=mask,
            response_tokens=answer,
            response_mask=answer_mask,
            finished=responses.finished,
            sampled=responses.logprobs[:, :length],
            logprobs=logprobs * answer_mask,
            reference=reference * answer_mask,
            values=values * answer_mask,
            entropy=entropy * answer_mask,
        )

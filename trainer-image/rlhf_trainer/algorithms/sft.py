"""Supervised fine-tuning on demonstrations, with the loss on the response alone. The loop lives elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_operator.api.plan import PlanWarmStart
from rlhf_trainer.distributed import Group
from rlhf_trainer.engine import Engine
from rlhf_trainer.policy.generation import SamplingSettings, pad_prompts
from rlhf_trainer.sampling import DataOrder
from rlhf_trainer.schedule import learning_rate
from rlhf_trainer.scoring import DataRow

from .batch import model_inputs


def completion_loss(logprobs: Tensor, mask: Tensor, step_tokens: Tensor) -> Tensor:
    """Mean negative log-likelihood of the responses' tokens, in nats.

    logprobs, mask: [batch, response]; step_tokens: scalar, the tokens of the whole optimizer step.
    """
    return -(logprobs * mask).sum() / step_tokens


class SFTTrainer:
    """One SFT run on one rank: a step is one optimizer step on one batch."""

    def __init__(
        self,
        settings: PlanWarmStart,
        group: Group,
        engine: Engine,
        rows: Sequence[DataRow],
        tokenizer: Any,
        sampling: SamplingSettings,
        micro_batch_size: int,
    ) -> None:
        self._settings = settings
        self._group = group
        self._engine = engine
        self._rows = rows
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._micro = micro_batch_size
        self._order = DataOrder(len(rows), settings.seed, "demonstrations")
        self.steps = sft_steps(settings, len(rows))

    def step(self, step: int) -> dict[str, float]:
        """Do step 1 … `steps` and return its figures."""
        batch = self._settings.batch_size
        share = self._group.share(batch)
        first = (step - 1) * batch
        rows = [self._rows[self._order.at(first + place)] for place in share]
        prompts = [list(row.prompt_ids) for row in rows]
        responses = [self._response(row) for row in rows]
        # All ranks pad alike: partitioned models must make the same calls everywhere.
        width = self._group.maximum(max(map(len, prompts)), "the longest prompt")
        length = self._group.maximum(max(map(len, responses)), "the longest response")
        tokens = self._group.sum(torch.tensor(float(sum(map(len, responses))), device=self._group.device))
        rate = learning_rate(self._settings.optimizer, step, self.steps)
        total = torch.zeros((), device=self._group.device)
        for start in range(0, len(rows), self._micro):
            part = slice(start, start + self._micro)
            inputs, mask = self._inputs(prompts[part], responses[part], width, length)
            logprobs, _ = self._engine(*inputs)
            loss = completion_loss(logprobs, mask, tokens)
            self._engine.accumulate(loss)
            total += loss.detach()
        norm = self._engine.step(rate)
        loss_sum = float(self._group.sum(total))
        return {"loss": loss_sum, "gradNorm": norm, "learningRate": rate, "tokens": float(tokens)}

    def _response(self, row: DataRow) -> list[int]:
        """The demonstration's tokens with the end token; one that is too long is cut and then has no end."""
        ids = self._tokenizer(row.response or "", add_special_tokens=False).input_ids
        return [*ids, self._tokenizer.eos_token_id][: self._sampling.max_tokens]

    def _inputs(
        self, prompts: list[list[int]], responses: list[list[int]], width: int, length: int
    ) -> tuple[tuple[Tensor, Tensor, int], Tensor]:
        pad, device = self._sampling.pad_token, self._group.device
        tokens, prompt_mask = pad_prompts(prompts, width, pad, device)
        answer = torch.full((len(responses), length), pad, dtype=torch.int64)
        mask = torch.zeros((len(responses), length))
        for place, response in enumerate(responses):
            answer[place, : len(response)] = torch.tensor(response, dtype=torch.int64)
            mask[place, : len(response)] = 1.0
        answer, mask = answer.to(device), mask.to(device)
        return model_inputs(tokens, prompt_mask, answer, mask), mask

    def save(self, folder: Path) -> None:
        """Write this rank's part of the model and its optimizer."""
        self._engine.save(folder / "engine")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        self._engine.load(folder / "engine")

    def weights(self) -> Mapping[str, Tensor]:
        """The policy's whole weights, named as its Hugging Face model names them."""
        return {name.removeprefix("model."): value for name, value in self._engine.weights().items()}


def sft_steps(settings: PlanWarmStart, rows: int) -> int:
    """Optimizer steps of the warm start; the last batch is filled up from the next shuffle."""
    return max(1, -(-round(settings.epochs * rows) // settings.batch_size))

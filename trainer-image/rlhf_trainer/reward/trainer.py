"""TRL's RewardTrainer with what it lacks: soft labels, row weights, a head per dimension, pairs encoded as served.

The loop is Transformers', held to our steps and checkpoints by trl_bridge. Ours here are the input and the loss.
TRL 1.16 would crash on an encoder's tokenizer, drop over-long rows silently and know one label only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from rlhf_operator.api.algorithms import Optimizer as OptimizerSettings
from rlhf_operator.api.plan import PlanCompute
from rlhf_scoring.encode import Encoder
from rlhf_scoring.reward_model import padded
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.trl_bridge.control import StepControl
from rlhf_trainer.trl_bridge.trainer import Bridge

INDEX = "index"
TARGETS = ("second", "p_first", "weight", "head")


def preference_loss(margin: Tensor, p_first: Tensor, weight: Tensor) -> Tensor:
    """−w[p·log σ(Δ) + (1−p)·log σ(−Δ)], the mean over rows: Bradley–Terry with soft labels. All: [rows].

    Weights have mean 1 over the data, so that the mean over rows is the same for any split over ranks.
    """
    return -(weight * (p_first * logsigmoid(margin) + (1.0 - p_first) * logsigmoid(-margin))).mean()


def margins(logits: Tensor, second: Tensor, head: Tensor) -> Tensor:
    """Δ = score(first) − score(second) in each row's dimension: [rows].

    logits: [texts, heads], the firsts in front; second: [rows], where a row's second text is, −1 for a response judged
    alone (its Δ is its score); head: [rows].
    """
    rows = torch.arange(len(second), device=logits.device)
    first = logits[rows, head]
    other = logits[second.clamp(min=0), head]
    return first - torch.where(second >= 0, other, torch.zeros_like(other))


class PairCollator:
    """Turns row numbers into a batch: firsts, then seconds, each encoded as every other part of the product does."""

    def __init__(
        self,
        rows: Sequence[Judged],
        encoder: Encoder,
        dimensions: Sequence[str],
        pad: int,
        token_types: bool,
    ) -> None:
        self._rows = rows
        self._encoder = encoder
        self._heads = {name: place for place, name in enumerate(dimensions)}
        self._pad = pad
        self._types = token_types
        self._scale = len(rows) / sum(row.weight for row in rows)

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """Encode and pad a batch."""
        rows = [self._rows[example[INDEX]] for example in examples]
        texts = [self._encoder.encode(row.prompt, row.first) for row in rows]
        second = []
        for row in rows:
            second.append(-1 if row.second is None else len(texts))
            if row.second is not None:
                texts.append(self._encoder.encode(row.prompt, row.second))
        return {
            **padded(texts, self._pad, self._types),
            "second": torch.tensor(second),
            "p_first": torch.tensor([row.p_first for row in rows]),
            "weight": torch.tensor([row.weight * self._scale for row in rows]),
            "head": torch.tensor([self._heads[row.dimension] for row in rows]),
        }


class PreferenceTrainer(Bridge, RewardTrainer):
    """One training of a reward model on one rank."""

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        args: RewardConfig,
        order: Sequence[int],
        collator: PairCollator,
        optimizer: OptimizerSettings,
        compute: PlanCompute,
        control: StepControl,
        peft_config: Any = None,
    ) -> None:
        """Take a model with one head per dimension.

        order: the rows of all steps, one after the other.
        """
        # Of this rank since the last step: summed loss, rows, pairs that came out right, pairs with a winner.
        self._sums = torch.zeros(4, dtype=torch.float64)
        self._group = control.boundary.group
        labels = dict(model.config.id2label)
        # TRL takes models of one label only; the loss below is the only place where the number matters.
        model.config.num_labels = 1
        super().__init__(
            optimizer=optimizer,
            compute=compute,
            control=control,
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=Dataset.from_dict({INDEX: list(order)}),
            processing_class=tokenizer,
            peft_config=peft_config,
        )
        config: Any = model.config
        config.id2label = labels
        config.label2id = {name: place for place, name in labels.items()}

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch."""
        second, p_first, weight, head = (inputs.pop(name) for name in TARGETS)
        outputs = model(**inputs)
        margin = margins(outputs.logits.float(), second, head)
        loss = preference_loss(margin, p_first, weight)
        with torch.no_grad():
            judged = p_first != 0.5
            right = torch.where(margin == 0, 0.5, ((margin > 0) == (p_first > 0.5)).float())
            found = (float(loss) * len(margin), len(margin), float((right * judged).sum()), float(judged.sum()))
            self._sums += torch.tensor(found, dtype=torch.float64)
        return (loss, outputs) if return_outputs else loss

    def step_figures(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Loss and accuracy over the step's rows, whichever rank and micro-batch they fell to."""
        group = self._group
        loss, rows, right, judged = group.sum(self._sums.to(group.device), "the step's figures").tolist()
        self._sums.zero_()
        return {"loss": loss / rows, **({"accuracy": right / judged} if judged else {})}

"""TRL's RewardTrainer with what it lacks: soft labels, row weights, a head per dimension, pairs encoded as served.

TRL's and Transformers' are the loop of optimizer steps, accumulation, precision, LoRA, DDP and DeepSpeed. Ours are the
input, the loss, the schedule, and that checkpoints are written by our store. What happens between steps is in
control.py. TRL 1.16 would crash on an encoder's tokenizer, drop over-long rows silently and know one label only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from rlhf_operator.api.algorithms import Optimizer as OptimizerSettings
from rlhf_operator.api.plan import PlanCompute
from rlhf_scoring.encode import Encoder
from rlhf_scoring.reward_model import padded
from rlhf_trainer.engine import check_engine, plain_data_files
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.schedule import learning_rate

from .control import StepControl

INDEX = "index"
TARGETS = ("second", "p_first", "weight", "head")
TRAINER_STATE = "trainer_state.json"


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


class PreferenceTrainer(RewardTrainer):
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
        self._schedule = optimizer
        self._compute = compute
        self._control = control
        labels = dict(model.config.id2label)
        # TRL takes models of one label only; the loss below is the only place where the number matters.
        model.config.num_labels = 1
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=Dataset.from_dict({INDEX: list(order)}),
            processing_class=tokenizer,
            callbacks=[control],
            peft_config=peft_config,
        )
        config: Any = model.config
        config.id2label = labels
        config.label2id = {name: place for place, name in labels.items()}
        # Standard output is for JSON lines.
        self.remove_callback(PrinterCallback)

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Rows are encoded by the collator, none is filtered."""
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        """The order is in the data already: a function of seed and index, so that a resume needs no state of it."""
        return torch.utils.data.SequentialSampler(cast("Dataset", self.train_dataset))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate as everywhere in this trainer: a function of the step alone."""
        if self.lr_scheduler is None:
            peak = self._schedule.learning_rate
            self.lr_scheduler = LambdaLR(
                cast("Optimizer", optimizer or self.optimizer),
                lambda done: learning_rate(self._schedule, done + 1, num_training_steps) / peak,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

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
            self._control.add(float(loss) * len(margin), len(margin), float((right * judged).sum()), int(judged.sum()))
        return (loss, outputs) if return_outputs else loss

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """Wrap the model, prove that DeepSpeed is on when it should be, and read a checkpoint as plain data."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)  # type: ignore[no-untyped-call]
        if self._compute.zero_stage > 0:
            check_engine(self.model_wrapped, self._compute)
            self.model_wrapped.checkpoint_engine = plain_data_files()
        if resume_from_checkpoint is not None:
            if self.is_deepspeed_enabled:
                whole = getattr(self.model, "peft_config", None) is None
                deepspeed_load_checkpoint(self.model_wrapped, resume_from_checkpoint, load_module_strict=whole)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint that counts only once it is complete on all ranks."""
        self._control.save(self.state.global_step, self._write)

    def _write(self, folder: Path) -> None:
        if not self.is_deepspeed_enabled and self.args.should_save:
            self._save(str(folder))
            # A pickle of settings that nothing reads.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        self._save_optimizer_and_scheduler(str(folder))
        if self.args.should_save:
            self.state.save_to_json(str(folder / TRAINER_STATE))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: what is random is seeded anew at every step (control.py)."""

"""What any TRL trainer is made to do as the rest of this trainer does it.

TRL's and Transformers' are the loss, the loop of optimizer steps, accumulation, precision, DDP and DeepSpeed. Ours are
the order of rows, the schedule, and that checkpoints are written by our store and read as plain data. What happens
between steps is in control.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer import TRAINING_ARGS_NAME, Trainer
from transformers.trainer_callback import PrinterCallback

from rlhf_operator.api.algorithms import Optimizer as OptimizerSettings
from rlhf_operator.api.plan import PlanCompute
from rlhf_trainer.checkpoint import Checkpoint
from rlhf_trainer.engine import check_engine, describe_zero, gathered_weights, plain_data_files
from rlhf_trainer.errors import Crash
from rlhf_trainer.schedule import learning_rate

from .control import StepControl

TRAINER_STATE = "trainer_state.json"

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class Bridge(_Trainer):
    """Stands in front of a TRL trainer's class: `class PreferenceTrainer(Bridge, RewardTrainer)`."""

    def __init__(
        self, *, optimizer: OptimizerSettings, compute: PlanCompute, control: StepControl, **settings: Any
    ) -> None:
        """Build the TRL trainer; `settings` are its own arguments.

        Its train_dataset holds the rows of all steps in the order in which they are taken.
        """
        self._schedule = optimizer
        self._compute = compute
        self._control = control
        control.step_figures = self.step_figures
        super().__init__(callbacks=[control], **settings)
        # Standard output is for JSON lines.
        self.remove_callback(PrinterCallback)
        ranks = control.boundary.group.world_size
        if self.args.world_size != ranks:
            # Every rank would read the same rows, and nothing else would show it.
            raise Crash(f"the library sees {self.args.world_size} ranks of {ranks}", "WorldSize")

    def step_figures(self, logs: Mapping[str, float]) -> dict[str, float]:
        """What the run says of a step, from what the trainer logs of it."""
        return dict(logs)

    def write_more(self, folder: Path) -> None:
        """Write what a checkpoint holds beside the trainer's own files; runs on all ranks."""

    def fit(self, found: Checkpoint | None) -> None:
        """Train to the end, from a checkpoint or from the start. Raises Interrupted when asked to stop."""
        # A path is always named: what the library would find by itself may be half a checkpoint.
        self.train(resume_from_checkpoint=None if found is None else str(found.path))
        self._control.leave_if_stopped()

    @property
    def engine(self) -> str:
        """What trained, as found on the living object."""
        wrapped = self.model_wrapped
        if self._compute.zero_stage > 0:
            return describe_zero(wrapped)
        return f"{type(wrapped).__name__}(world={self.args.world_size})"

    def weights(self) -> dict[str, Tensor]:
        """The model's whole weights on the CPU, on every rank."""
        return gathered_weights(cast("torch.nn.Module", self.model))

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Rows are encoded by the collator, none is filtered."""
        return dataset

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        """The order is in the data already: a function of seed and index, so that a resume needs no state of it."""
        return torch.utils.data.SequentialSampler(cast("Dataset", self.train_dataset))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate as everywhere in this trainer: a function of the step alone."""
        if self.lr_scheduler is None:
            updates = self._control.updates
            peak, steps = self._schedule.learning_rate, num_training_steps // updates
            self.lr_scheduler = LambdaLR(
                cast("torch.optim.Optimizer", optimizer or self.optimizer),
                lambda done: learning_rate(self._schedule, done // updates + 1, steps) / peak,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

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
        self.write_more(folder)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing: what is random is seeded anew at every step (control.py)."""

"""A TRL trainer's steps held to a run's boundaries: figures, guards, stop, fencing, checkpoints, seeds."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback

from rlhf_trainer.boundary import Boundary
from rlhf_trainer.sampling import derive_seed


class StepControl(TrainerCallback):
    """Between the steps of one training; `offset` steps of the run lie before it."""

    def __init__(self, boundary: Boundary, *, seed: int, steps: int, offset: int = 0, updates: int = 1) -> None:
        """Take a training of `steps` steps, each of so many `updates` (optimizer steps)."""
        self.boundary = boundary
        self.updates = updates
        self.step_figures: Callable[[Mapping[str, float]], dict[str, float]] = dict
        """What the run says of a step, from what the trainer logs of it."""
        self._seed = seed
        self._steps = steps
        self._offset = offset
        self._started = 0.0
        self._leave_at: int | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw what an update draws (dropout) from its number and the rank, so that a resumed run draws the same."""
        done = self._offset * self.updates + state.global_step
        if done % self.updates == 0:
            self._started = time.monotonic()
        torch.manual_seed(derive_seed(self._seed, "dropout", done, self.boundary.group.rank))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """End a step: the trainer logs once for each, behind its last update. A summary of the whole has no loss."""
        if logs is None or "loss" not in logs:
            return
        step = self.step(state.global_step)
        seconds = time.monotonic() - self._started
        then = self.boundary.end(step, self.step_figures(logs), seconds, last=step == self._offset + self._steps)
        control.should_save = then.save
        if then.leave:
            self._leave_at = step
            control.should_training_stop = True

    def save(self, updates_done: int, write: Callable[[Path], None]) -> None:
        """Write the checkpoint of the step that ends with this update."""
        self.boundary.save(self.step(updates_done), write)

    def leave_if_stopped(self) -> None:
        """Raise Interrupted when the training ended because it was asked to."""
        if self._leave_at is not None:
            raise self.boundary.interrupted(self._leave_at)

    def step(self, updates_done: int) -> int:
        """The number in the whole run of the step that ends with this update."""
        return self._offset + updates_done // self.updates

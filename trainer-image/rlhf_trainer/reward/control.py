"""What happens between two steps of a reward model's training: figures, stop, fencing, checkpoints, seeds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback

from rlhf_operator.api.plan import PlanCheckpoints
from rlhf_trainer.checkpoint import Checkpoint, CheckpointStore
from rlhf_trainer.distributed import Group
from rlhf_trainer.errors import GuardStopped, Interrupted, Superseded
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.loop import SAVE_MARGIN, Order, agree
from rlhf_trainer.progress import Reporter
from rlhf_trainer.sampling import derive_seed
from rlhf_trainer.signals import StopFlag


@dataclass
class Run:
    """What one attempt shares among its trainings, one after the other."""

    group: Group
    workspace: Workspace
    store: CheckpointStore
    checkpoints: PlanCheckpoints
    stop: StopFlag
    beat: Callable[[], None]
    reporter: Reporter | None
    steps: int
    """Of all trainings together."""
    seconds: list[float] = field(default_factory=list)
    slowest_save_seconds: float = 0.0
    last: Checkpoint | None = None


class StepControl(TrainerCallback):
    """Between the steps of one training; `offset` steps of the run lie before it."""

    def __init__(self, run: Run, seed: int, offset: int, steps: int) -> None:
        self._run = run
        self._seed = seed
        self._offset = offset
        self._steps = steps
        self._started = 0.0
        self._stopped_at: int | None = None
        self._sums = torch.zeros(4, dtype=torch.float64)
        self.figures: dict[str, float] = {}

    def add(self, loss: float, rows: int, right: float, judged: int) -> None:
        """Count a micro-batch of this rank: its summed loss, and how many of its pairs with a winner came out right."""
        self._sums += torch.tensor([loss, rows, right, judged], dtype=torch.float64)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw dropout from the step and the rank, so that a resumed run draws the same."""
        self._started = time.monotonic()
        step = self._offset + state.global_step
        torch.manual_seed(derive_seed(self._seed, "dropout", step, self._run.group.rank))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how the step went, agree on going on, and ask for a checkpoint where one is due."""
        run, step = self._run, self._offset + state.global_step
        self._say(step)
        run.beat()
        order = agree(run.group, run.workspace, run.stop)
        if order is Order.GIVE_WAY:
            run.workspace.check()
            raise Superseded("a newer attempt owns the workspace; this rank gives way with rank 0")
        last = state.global_step == self._steps
        due = last or state.global_step % run.checkpoints.every_steps == 0
        if order is Order.STOP and not (last and step == run.steps):
            self._stopped_at = step
            too_late = not run.stop.leaves_time_for(run.slowest_save_seconds * SAVE_MARGIN)
            due = run.group.maximum(int(too_late), "the agreement to save") == 0
            control.should_training_stop = True
        control.should_save = due

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write the checkpoint of a step of this training, under its number in the whole run."""
        started = time.monotonic()
        run = self._run
        run.last = run.store.save(self._offset + step, write)
        run.slowest_save_seconds = max(run.slowest_save_seconds, time.monotonic() - started)
        if run.reporter is not None:
            run.reporter.checkpoint(run.last.record())

    def leave_if_stopped(self) -> None:
        """Raise Interrupted when the training ended because it was asked to."""
        if self._stopped_at is not None:
            kept = self._run.last.step if self._run.last is not None else 0
            saved = "saved" if kept == self._stopped_at else f"no time to save: step {kept} is kept"
            raise Interrupted(f"asked to stop after step {self._stopped_at}; {saved}")

    def _say(self, step: int) -> None:
        run = self._run
        loss, rows, right, judged = run.group.sum(self._sums.to(run.group.device), "the step's figures").tolist()
        self._sums.zero_()
        self.figures = {"loss": loss / rows, **({"accuracy": right / judged} if judged else {})}
        run.seconds.append(time.monotonic() - self._started)
        figures = {**self.figures, "secondsStep": run.seconds[-1]}
        if not math.isfinite(figures["loss"]):
            kept = f"the checkpoint of step {run.last.step} is kept" if run.last is not None else "none was saved"
            raise GuardStopped(
                f"the loss of step {step} is not finite: lower optimizer.learningRate, or look for broken rows; {kept}",
                reason="NotFinite",
            )
        if run.reporter is not None:
            recent = run.seconds[-10:]
            run.reporter.step(step, figures, (run.steps - step) * sum(recent) / len(recent), [])

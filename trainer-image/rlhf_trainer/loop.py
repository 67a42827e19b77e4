"""The loop around any algorithm: steps, guards, checkpoints, the stop flag, and what is said of them."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from rlhf_operator.api.base import Model
from rlhf_operator.api.guards import GuardAction
from rlhf_operator.api.plan import PlanCheckpoints

from .checkpoint import Checkpoint, CheckpointStore
from .distributed import Group
from .errors import GuardStopped, Interrupted, Superseded
from .fencing import Workspace
from .files import write_durably
from .guards import Guards, Violation
from .progress import Reporter, say
from .signals import StopFlag

STATE_FILE = "trainer.json"
# A save is trusted to take at most this much longer than the slowest one so far.
SAVE_MARGIN = 1.5


class Algorithm(Protocol):
    """What the loop needs of an algorithm."""

    def step(self, step: int) -> dict[str, float]:
        """Do one step and return its figures."""
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's part of a checkpoint."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        ...


class LoopState(Model):
    """What the loop remembers; part of every checkpoint."""

    guard_streaks: dict[str, int]
    figures: dict[str, float]
    """Of the checkpoint's own step."""


class Order(IntEnum):
    """What the ranks agree to do at the boundary of a step; the highest wins."""

    GO_ON = 0
    STOP = 1
    GIVE_WAY = 2


def agree(group: Group, workspace: Workspace, stop: StopFlag) -> Order:
    """What all ranks do at this boundary: they learn of a stop at different times, of a newer attempt only rank 0."""
    order = Order.STOP if stop.is_set else Order.GO_ON
    if group.is_main and workspace.owner() > workspace.attempt:
        order = Order.GIVE_WAY
    return Order(group.maximum(int(order), "the agreement to go on"))


@dataclass
class Loop:
    """Runs an algorithm from a checkpoint or from the start to its last step."""

    group: Group
    workspace: Workspace
    store: CheckpointStore
    algorithm: Algorithm
    steps: int
    checkpoints: PlanCheckpoints
    guards: Guards
    stop: StopFlag
    beat: Callable[[], None]
    reporter: Reporter | None
    """None for phases that are not counted as steps, and on every rank but the first."""
    save_policy: Callable[[Path], None]
    """Writes the policy as a Hugging Face directory below the given folder; runs on all ranks."""
    after_step: Callable[[int], None] = lambda step: None
    """Runs on all ranks after every step."""
    after_save: Callable[[Checkpoint], None] = lambda checkpoint: None
    """Runs on rank 0 after every checkpoint."""
    slowest_save_seconds: float = 0.0
    last: Checkpoint | None = None
    figures: dict[str, float] = field(default_factory=dict)

    def resume(self, minimum_step: int = 0) -> int:
        """Load the newest complete checkpoint; returns its step, 0 when there is none."""
        found = self.store.newest(minimum_step)
        if found is None:
            return 0
        self.algorithm.load(found.path)
        state = LoopState.model_validate_json((found.path / STATE_FILE).read_bytes())
        self.guards.streaks.update(state.guard_streaks)
        self.last, self.figures = found, state.figures
        if self.group.is_main:
            say("resumed", step=found.step, checkpoint=found.complete.digest(), path=str(found.path))
        if self.reporter is not None:
            self.reporter.resumed(found.step)
            self.reporter.checkpoint(found.record())
        return found.step

    def run(self, done: int) -> dict[str, float]:
        """Do the steps behind `done`; returns the figures of the last one."""
        seconds: list[float] = []
        for step in range(done + 1, self.steps + 1):
            started = time.monotonic()
            figures = self.figures = self.algorithm.step(step)
            seconds.append(time.monotonic() - started)
            self._finish_figures(figures, seconds[-1])
            warnings = self._guard(step, figures)
            self._refuse_last(step, figures)
            self._report(step, figures, seconds, warnings)
            self.beat()
            self.after_step(step)
            self._boundary(step, figures)
        return self.figures

    def _boundary(self, step: int, figures: Mapping[str, float]) -> None:
        """Save where the plan says, and leave where the ranks agree to."""
        order = agree(self.group, self.workspace, self.stop)
        if order is Order.GIVE_WAY:
            self.workspace.check()
            raise Superseded("a newer attempt owns the workspace; this rank gives way with rank 0")
        good = all(math.isfinite(value) for value in figures.values())
        due = step % self.checkpoints.every_steps == 0 or step == self.steps
        if good and due:
            self.save(step)
        if order is Order.STOP and step < self.steps:
            self._leave(step, saved=good and due, good=good)

    def _leave(self, step: int, saved: bool, good: bool) -> None:
        """Save if the time is enough, and raise Interrupted."""
        too_late = not self.stop.leaves_time_for(self.slowest_save_seconds * SAVE_MARGIN)
        fits = self.group.maximum(int(too_late), "the agreement to save") == 0
        if not saved and fits and good:
            self.save(step)
            saved = True
        kept = self.last.step if self.last is not None else 0
        raise Interrupted(
            f"asked to stop after step {step}; " + ("saved" if saved else f"no time to save: step {kept} is kept")
        )

    def save(self, step: int) -> Checkpoint:
        """Write a complete checkpoint of this step."""
        started = time.monotonic()

        def write(folder: Path) -> None:
            self.algorithm.save(folder)
            self.save_policy(folder)
            if self.group.is_main:
                state = LoopState(guard_streaks=self.guards.streaks, figures=self.figures)
                write_durably(folder / STATE_FILE, state.model_dump_json(by_alias=True).encode())

        self.last = self.store.save(step, write)
        self.slowest_save_seconds = max(self.slowest_save_seconds, time.monotonic() - started)
        if self.reporter is not None:
            self.reporter.checkpoint(self.last.record())
        if self.group.is_main:
            self.after_save(self.last)
        return self.last

    def _guard(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """Hold the figures against the guards; rank 0's reading of the live settings counts for all."""
        found: list[Violation] = self.guards.check(step, figures)
        found = self.group.broadcast(found, "the verdict of the guards")
        for violation in found:
            if violation.action is GuardAction.STOP:
                kept = f"the checkpoint of step {self.last.step} is kept" if self.last is not None else "none was saved"
                raise GuardStopped(f"{violation.message}; {kept}", reason="GuardStopped")
        warnings = [violation.message for violation in found]
        if self.guards.settings_error is not None:
            warnings.append(self.guards.settings_error)
        return warnings

    def _refuse_last(self, step: int, figures: Mapping[str, float]) -> None:
        """End without a result when the last step has figures that are no numbers, whatever the guards' actions."""
        bad = sorted(name for name, value in figures.items() if not math.isfinite(value))
        if bad and step == self.steps:
            kept = f"the checkpoint of step {self.last.step} is kept" if self.last is not None else "none was saved"
            raise GuardStopped(
                f"{', '.join(bad[:5])} of the last step ({step}) not finite: a policy that left the numbers is no "
                f"result; {kept}",
                reason="NotFinite",
            )

    def _finish_figures(self, figures: dict[str, float], seconds: float) -> None:
        figures["secondsStep"] = seconds
        if "responseTokens" in figures and "batchSize" in figures:
            figures["tokensPerSecond"] = figures["responseTokens"] * figures.pop("batchSize") / seconds

    def _report(self, step: int, figures: Mapping[str, float], seconds: list[float], warnings: list[str]) -> None:
        if self.reporter is not None:
            recent = seconds[-10:]
            eta = (self.steps - step) * sum(recent) / len(recent)
            self.reporter.step(step, figures, eta, warnings)

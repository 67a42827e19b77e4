"""What happens between two steps of any training: figures, guards, fencing, the stop flag, checkpoints.

Who trains is elsewhere: our own loop (loop.py) or a TRL trainer (trl_bridge/control.py).
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from rlhf_operator.api.base import Model
from rlhf_operator.api.guards import GuardAction
from rlhf_operator.api.plan import PlanCheckpoints

from .checkpoint import Checkpoint, CheckpointStore, last_good
from .distributed import Group
from .errors import GuardStopped, Interrupted, Superseded
from .fencing import Workspace
from .files import write_durably
from .guards import Guards, GuardState, Violation
from .pace import Pace
from .progress import Reporter, say
from .signals import StopFlag

STATE_FILE = "trainer.json"
# A save is trusted to take at most this much longer than the slowest one so far.
SAVE_MARGIN = 1.5


class LoopState(Model):
    """What is remembered between steps; part of every checkpoint."""

    guards: GuardState
    figures: dict[str, float]
    """Of the checkpoint's own step."""


class Order(IntEnum):
    """What the ranks agree to do at the boundary of a step; the highest wins."""

    GO_ON = 0
    STOP = 1
    GIVE_WAY = 2


class Next(NamedTuple):
    """What is to be done before the next step."""

    save: bool
    leave: bool


def agree(group: Group, workspace: Workspace, stop: StopFlag) -> Order:
    """What all ranks do at this boundary: they learn of a stop at different times, of a newer attempt only rank 0."""
    order = Order.STOP if stop.is_set else Order.GO_ON
    if group.is_main and workspace.owner() > workspace.attempt:
        order = Order.GIVE_WAY
    return Order(group.maximum(int(order), "the agreement to go on"))


@dataclass(kw_only=True)
class Boundary:
    """The boundaries of one run's steps. Every method is called by all ranks together."""

    group: Group
    workspace: Workspace
    store: CheckpointStore
    steps: int
    checkpoints: PlanCheckpoints
    guards: Guards
    stop: StopFlag
    beat: Callable[[], None]
    reporter: Reporter | None
    """None for phases that are not counted as steps, and on every rank but the first."""
    after_step: Callable[[int], None] = lambda step: None
    """Runs on all ranks after every step."""
    after_save: Callable[[Checkpoint], None] = lambda checkpoint: None
    """Runs on rank 0 after every checkpoint."""
    pace: Pace = field(init=False)
    """What the time left is reckoned from; whoever evaluates between steps tells it."""
    slowest_save_seconds: float = 0.0
    last: Checkpoint | None = None
    figures: dict[str, float] = field(default_factory=dict)
    _saved_seconds: float | None = None
    _waited_before: float = 0.0

    def __post_init__(self) -> None:
        self.pace = Pace(self.steps, self.checkpoints.every_steps)

    def find(self, minimum_step: int = 0) -> Checkpoint | None:
        """The newest complete checkpoint, told of and remembered; what it holds of weights is read elsewhere."""
        found = self.store.newest(minimum_step)
        if found is None:
            return None
        state = LoopState.model_validate_json((found.path / STATE_FILE).read_bytes())
        self.guards.state = state.guards
        self.last, self.figures = found, state.figures
        if self.group.is_main:
            say("resumed", step=found.step, checkpoint=found.complete.digest(), path=str(found.path))
        if self.reporter is not None:
            self.reporter.resumed(found.step)
            self.reporter.checkpoint(found.record())
        return found

    def end(self, step: int, figures: dict[str, float], seconds: float, *, last: bool = False) -> Next:
        """End a step that took so long: hold its figures against the guards, tell them, agree on what comes next.

        last: a checkpoint is due whatever its number. Raises GuardStopped, Superseded.
        """
        self.figures = figures
        self._finish_figures(figures, seconds)
        figures |= self.guards.derive(figures)
        warnings = self._guard(step, figures)
        self._refuse_last(step, figures)
        self.pace.step_took(seconds)
        if self.reporter is not None:
            self.reporter.step(step, figures, self.pace.seconds_left(step), warnings)
        self.beat()
        started = time.monotonic()
        self.after_step(step)
        if self.pace.evaluates(step):
            self.pace.evaluation_took(time.monotonic() - started)
        order = agree(self.group, self.workspace, self.stop)
        if order is Order.GIVE_WAY:
            self.workspace.check()
            raise Superseded("a newer attempt owns the workspace; this rank gives way with rank 0")
        leave = order is Order.STOP and step < self.steps
        due = last or step == self.steps or step % self.checkpoints.every_steps == 0
        good = all(math.isfinite(value) for value in figures.values())
        self._waited_before = self.group.waited.seconds
        return Next(save=good and (due or (leave and self._time_to_save())), leave=leave)

    def save(self, step: int, write: Callable[[Path], None]) -> Checkpoint:
        """Write a complete checkpoint of this step: `write` on all ranks, and what is remembered between steps."""
        started = time.monotonic()

        def both(folder: Path) -> None:
            write(folder)
            if self.group.is_main:
                state = LoopState(guards=self.guards.state, figures=self.figures)
                write_durably(folder / STATE_FILE, state.model_dump_json(by_alias=True).encode())

        self.last = self.store.save(step, both, self.guards.crossed)
        self._saved_seconds = time.monotonic() - started
        self.pace.save_took(self._saved_seconds)
        self.slowest_save_seconds = max(self.slowest_save_seconds, self._saved_seconds)
        if self.reporter is not None:
            self.reporter.checkpoint(self.last.record())
        if self.group.is_main:
            self.after_save(self.last)
        self._waited_before = self.group.waited.seconds
        return self.last

    def interrupted(self, step: int) -> Interrupted:
        """What to raise behind a step at which the ranks agreed to leave."""
        kept = self.last.step if self.last is not None else 0
        saved = "saved" if kept == step else f"no time to save: step {kept} is kept"
        return Interrupted(f"asked to stop after step {step}; {saved}")

    def _time_to_save(self) -> bool:
        too_late = not self.stop.leaves_time_for(self.slowest_save_seconds * SAVE_MARGIN)
        return self.group.maximum(int(too_late), "the agreement to save") == 0

    def _kept(self) -> str:
        return f"the checkpoint of step {self.last.step} is kept" if self.last is not None else "none was saved"

    def _guard(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """Hold the figures against the guards; rank 0's reading of the live settings counts for all."""
        found: list[Violation] = self.guards.check(step, figures)
        found = self.group.broadcast(found, "the verdict of the guards")
        for violation in found:
            if violation.action is GuardAction.STOP:
                raise GuardStopped(f"{violation.message}; {self._good()}", reason="GuardStopped")
        return [*(violation.message for violation in found), *self.guards.notes]

    def _good(self) -> str:
        """Which checkpoint a run that is stopped leaves: the last one at which no guard's limit was passed."""
        good = self.group.broadcast(last_good(self.store.complete()) if self.group.is_main else [], "the last good one")
        return f"the checkpoint of step {good[0].step}, the last good one, is kept" if good else "none was saved before"

    def _refuse_last(self, step: int, figures: Mapping[str, float]) -> None:
        """End without a result when the last step has figures that are no numbers, whatever the guards' actions."""
        bad = sorted(name for name, value in figures.items() if not math.isfinite(value))
        if bad and step == self.steps:
            raise GuardStopped(
                f"{', '.join(bad[:5])} of the last step ({step}) not finite: a policy that left the numbers is no "
                f"result; {self._kept()}",
                reason="NotFinite",
            )

    def _finish_figures(self, figures: dict[str, float], seconds: float) -> None:
        figures["secondsStep"] = seconds
        figures["secondsWait"] = self.group.waited.seconds - self._waited_before
        if self._saved_seconds is not None:
            # Of the save behind the step before.
            figures["secondsSave"], self._saved_seconds = self._saved_seconds, None
        if "responseTokens" in figures and "batchSize" in figures:
            figures["tokensPerSecond"] = figures["responseTokens"] * figures.pop("batchSize") / seconds

"""The loop around an algorithm of our own. What happens between its steps is in boundary.py."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .boundary import Boundary


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


@dataclass(kw_only=True)
class Loop(Boundary):
    """Runs an algorithm from a checkpoint or from the start to its last step."""

    algorithm: Algorithm
    save_policy: Callable[[Path], None]
    """Writes the policy as a Hugging Face directory below the given folder; runs on all ranks."""

    def resume(self, minimum_step: int = 0) -> int:
        """Load the newest complete checkpoint; returns its step, 0 when there is none."""
        found = self.find(minimum_step)
        if found is None:
            return 0
        self.algorithm.load(found.path)
        return found.step

    def run(self, done: int) -> dict[str, float]:
        """Do the steps behind `done`; returns the figures of the last one. Raises Interrupted when asked to stop."""
        for step in range(done + 1, self.steps + 1):
            started = time.monotonic()
            figures = self.algorithm.step(step)
            then = self.end(step, figures, time.monotonic() - started)
            if then.save:
                self.save(step, self._write)
            if then.leave:
                raise self.interrupted(step)
        return self.figures

    def _write(self, folder: Path) -> None:
        self.algorithm.save(folder)
        self.save_policy(folder)

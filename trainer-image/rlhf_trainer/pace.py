"""How long a run will still take. What a step, a save and an evaluation took is measured elsewhere."""

from collections import deque
from dataclasses import dataclass, field
from statistics import mean

# Responses grow or shrink while a policy learns: only the newest steps speak for those to come.
_WINDOW = 50


@dataclass
class Pace:
    """Seconds of the newest steps, saves and evaluations, and what of each is still to come."""

    steps: int
    save_every: int
    evaluate_every: int | None = None
    """None: not between steps."""
    evaluates_last: bool = False
    """Whether the policy is measured behind the last step."""
    _steps: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _saves: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _evaluations: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _first: float | None = None

    def step_took(self, seconds: float) -> None:
        """A step, without what follows it. The first one warms up, and counts until there is another."""
        if self._first is None:
            self._first = seconds
        else:
            self._steps.append(seconds)

    def save_took(self, seconds: float) -> None:
        """A checkpoint was written."""
        self._saves.append(seconds)

    def evaluation_took(self, seconds: float) -> None:
        """A policy was measured, be it the baseline."""
        self._evaluations.append(seconds)

    def evaluates(self, step: int) -> bool:
        """Whether the policy is measured between this step and the next."""
        return self.evaluate_every is not None and step < self.steps and step % self.evaluate_every == 0

    def seconds_left(self, step: int) -> float | None:
        """Seconds from the report of `step`, before what follows it, to the end; None before any was measured."""
        if self._first is None:
            return None
        each = mean(self._steps) if self._steps else self._first
        # What is not measured yet counts as nothing: it is not known to be more.
        save = mean(self._saves) if self._saves else 0.0
        evaluation = mean(self._evaluations) if self._evaluations else 0.0
        left = (self.steps - step) * each
        left += (_multiples(step - 1, self.steps - 1, self.save_every) + 1) * save
        evaluations = _multiples(step - 1, self.steps - 1, self.evaluate_every) if self.evaluate_every else 0
        return left + (evaluations + self.evaluates_last) * evaluation


def _multiples(after: int, last: int, every: int) -> int:
    """How many multiples of `every` lie in (after, last]."""
    return max(0, last // every - after // every)

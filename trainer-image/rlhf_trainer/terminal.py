"""A progress bar for whoever watches a run on a terminal. What is printed elsewhere is JSON lines (progress.py)."""

from collections.abc import Mapping

# model-signing brings it.
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .trackers import ETA, STEPS

SHOWN = ("reward", "loss", "kl", "entropy", "tokensPerSecond")


class Bar:
    """One line: steps, the figures that a person looks at, and the time left."""

    def __init__(self, name: str) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._task = self._bar.add_task(name, total=None, figures="", left="")
        self._bar.start()

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Show one step."""
        words = " ".join(f"{name} {figures[name]:.4g}" for name in SHOWN if name in figures)
        left = f"{duration(figures[ETA])} left" if ETA in figures else ""
        self._bar.update(self._task, completed=step, total=figures.get(STEPS), figures=words, left=left)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

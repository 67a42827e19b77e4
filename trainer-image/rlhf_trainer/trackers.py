"""Where a run's figures go beside stdout and /metrics: TensorBoard, MLflow, Weights & Biases, a bar on a terminal.

Which ones is said by the variables that these tools read themselves, so nothing here is in a plan. A tracker that fails
is let go with one line: training matters more than being watched.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from .tensorboard import EventFile

TENSORBOARD, MLFLOW, WANDB = "TENSORBOARD_LOGGING_DIR", "MLFLOW_TRACKING_URI", ("WANDB_API_KEY", "WANDB_MODE")
ETA, STEPS = "etaSeconds", "steps"
"""Names under which a tracker gets the seconds left and the number of steps, beside the figures."""
_PROJECT = "rlhf"
Say = Callable[..., None]


class Tracker(Protocol):
    """Takes the figures of every step."""

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep one step's figures."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class MLflow:
    """A run in MLflow's tracking server or folder."""

    def __init__(self, name: str) -> None:
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._mlflow: Any = importlib.import_module("mlflow")
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        self._mlflow.start_run(run_name=name)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Log one step."""
        self._mlflow.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WandB:
    """A run in Weights & Biases; attempts of one plan are one run."""

    def __init__(self, name: str, identity: str, folder: Path) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        wandb: Any = importlib.import_module("wandb")
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        self._run: Any = wandb.init(project=project, name=name, id=identity, resume="allow", dir=str(folder))

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Log one step."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def trackers_of(environment: Mapping[str, str], name: str, identity: str, folder: Path, say: Say) -> list[Tracker]:
    """The trackers that the environment asks for.

    name: of the job; identity: the same in every attempt; folder: where local files go. A tool that is asked
    for and not installed, or that does not start, is said in one line.
    """
    wanted: list[tuple[str, str | None, Callable[[], Tracker]]] = []
    if environment.get(TENSORBOARD):
        wanted.append((TENSORBOARD, None, lambda: EventFile(folder / environment[TENSORBOARD])))
    if environment.get(MLFLOW):
        wanted.append((MLFLOW, "mlflow", lambda: MLflow(name)))
    if variable := next((each for each in WANDB if environment.get(each)), None):
        wanted.append((variable, "wandb", lambda: WandB(name, identity, folder)))
    found = []
    for variable, package, start in wanted:
        if package is not None and importlib.util.find_spec(package) is None:
            words = f"{variable} is set, but this image has no package {package}: add it to the image, or unset it"
            say("tracker-missing", message=words)
            continue
        try:
            found.append(start())
        except Exception as error:
            say("tracker-failed", message=f"{variable} is set, but its tracker does not start: {error}"[:500])
    if sys.stdout.isatty():
        # Here and not at the top: pods have no terminal.
        from .terminal import Bar

        found.append(Bar(name))
    return found

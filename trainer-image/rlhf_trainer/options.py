"""The command line of launch and run. What the options lead to is decided elsewhere."""

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path

from rlhf_operator.api.plan import PROGRESS_PORT

PROGRESS_PORT_VARIABLE = "RLHF_PROGRESS_PORT"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(|k|M|G|T|Ki|Mi|Gi|Ti)")


@dataclass(frozen=True)
class RunOptions:
    """What one attempt is told beside its plan."""

    plan: Path
    settings: Path | None
    workspace: Path
    attempt: int
    micro_batch_size: int
    min_checkpoint_step: int

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "RunOptions":
        """Take the options from parsed arguments."""
        return cls(
            plan=arguments.plan,
            settings=arguments.settings,
            workspace=arguments.workspace,
            attempt=arguments.attempt,
            micro_batch_size=arguments.micro_batch_size,
            min_checkpoint_step=arguments.min_checkpoint_step,
        )

    def arguments(self) -> list[str]:
        """The same options as a command line."""
        found = ["--plan", str(self.plan), "--workspace", str(self.workspace), "--attempt", str(self.attempt)]
        found += ["--micro-batch-size", str(self.micro_batch_size)]
        found += ["--min-checkpoint-step", str(self.min_checkpoint_step)]
        return found if self.settings is None else [*found, "--settings", str(self.settings)]


def progress_port() -> int:
    """The port of metrics and progress; RLHF_PROGRESS_PORT overrides it where several runs share a host."""
    return int(os.environ.get(PROGRESS_PORT_VARIABLE, PROGRESS_PORT))


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def quantity(text: str) -> int:
    """Parse bytes as Kubernetes writes them: 80Gi, 500M, 1073741824."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no quantity of bytes: write 80Gi, 512Mi or a number")
    return int(float(match[1]) * _UNITS[match[2]])


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `launch` and `run` share."""
    parser.add_argument("--plan", type=Path, required=True, help="plan.json")
    parser.add_argument("--settings", type=Path, help="settings.json, read again at every step")
    parser.add_argument("--workspace", type=Path, required=True, help="the plan's folder on the storage claim")
    parser.add_argument("--attempt", type=positive, required=True, help="number of this attempt, from 1")
    parser.add_argument("--micro-batch-size", type=positive, default=1, help="rows per device at a time")
    parser.add_argument("--min-checkpoint-step", type=int, default=0, help="refuse to resume from an older step")

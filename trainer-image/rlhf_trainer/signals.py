"""What a rank is told from outside: stop, or show your stacks; and what it tells: that it is alive."""

import faulthandler
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

RUN_DIRECTORY_VARIABLE = "RLHF_RUN_DIR"
GRACE_VARIABLE = "RLHF_GRACE_SECONDS"
STACK_SIGNAL = signal.SIGUSR1
LAST_STACK_SIGNAL = signal.SIGUSR2
# What the agent needs after the ranks have left: to collect exit codes and write the last words.
SHUTDOWN_MARGIN_SECONDS = 15.0
DEFAULT_GRACE_SECONDS = 60.0


def grace_seconds() -> float:
    """Seconds between SIGTERM and SIGKILL of the pod, less the agent's margin (never under half of the grace)."""
    grace = float(os.environ.get(GRACE_VARIABLE, DEFAULT_GRACE_SECONDS))
    return max(grace / 2, grace - SHUTDOWN_MARGIN_SECONDS)


class StopFlag:
    """Set by SIGTERM; looked at between updates, when the weights are whole."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    def install(self) -> None:
        """Handle SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + grace_seconds()

    @property
    def is_set(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._deadline is not None

    def leaves_time_for(self, seconds: float) -> bool:
        """Whether so much time is left before the agent kills; a rank that wasn't asked has all the time."""
        return self._deadline is None or time.monotonic() + seconds < self._deadline


def heartbeat(local_rank: int) -> Callable[[], None]:
    """Return what tells the launcher's watchdog that this rank goes on; it does nothing without a launcher."""
    directory = os.environ.get(RUN_DIRECTORY_VARIABLE)
    if directory is None:
        return lambda: None
    return Path(directory, f"heartbeat-{local_rank}").touch


def show_stacks_on_signal(file: Path) -> None:
    """Write the stacks of all threads to `file` when the launcher asks, even while stuck inside a library.

    After LAST_STACK_SIGNAL the process ends, by that signal, as soon as they are written: of Python nothing runs on.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Stays open for the life of the process: the handler must not open files.
    kept = open(file, "w")  # noqa: SIM115
    faulthandler.register(STACK_SIGNAL, file=kept, all_threads=True)
    # What is chained is the default action, which ends a process.
    signal.signal(LAST_STACK_SIGNAL, signal.SIG_DFL)
    faulthandler.register(LAST_STACK_SIGNAL, file=kept, all_threads=True, chain=True)

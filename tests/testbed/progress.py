"""Progress lines with times on stderr, so that stdout holds only what a script wants to read."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from testbed.errors import NotReadyError


class Progress:
    """Says what happens and how long it has been since the start."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since this progress began."""
        return self._clock() - self._start

    def say(self, text: str) -> None:
        """Write one line: elapsed seconds, text."""
        with self._lock:
            stream = self._stream or sys.stderr
            print(f"[{self.elapsed_seconds:7.1f}s] {text}", file=stream, flush=True)


def wait_until(
    what: str, condition: Callable[[], bool], timeout_seconds: float, interval_seconds: float = 0.1, hint: str = ""
) -> None:
    """Poll `condition` until it holds.

    Raises NotReadyError with `what`, the time and `hint` (where to look) at the deadline.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            where = f"; look at {hint}" if hint else ""
            raise NotReadyError(f"{what} did not happen within {timeout_seconds:.0f} s{where}")
        time.sleep(interval_seconds)

"""How the demo speaks: numbered steps with the time since the start. No step is taken here."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Voice:
    """Writes steps and remarks, each with the seconds since the demo began."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._start

    def step(self, text: str) -> None:
        """A new step begins."""
        self._stream.write("\n")
        self._write(f"==> {text}")

    def say(self, text: str) -> None:
        """A remark within a step."""
        self._write(f"    {text}")

    def _write(self, text: str) -> None:
        self._stream.write(f"[{self.seconds:6.0f}s] {text}\n")
        self._stream.flush()

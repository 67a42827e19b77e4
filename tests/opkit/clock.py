"""`python -m opkit.clock`: the operator on a machine whose wall clock is off by CLOCK_OFF_SECONDS."""

from __future__ import annotations

import datetime
import os
import runpy
import sys
import time

OFF = "CLOCK_OFF_SECONDS"
COMMAND = (sys.executable, "-m", "opkit.clock")


def main() -> None:
    """Move the clock before anything is imported that looks at it."""
    off, right = float(os.environ[OFF]), time.time

    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Moved:
            return cls.fromtimestamp(right() + off, tz)

    time.time = lambda: right() + off
    datetime.datetime = Moved  # type: ignore[misc]
    runpy.run_module("rlhf_operator", run_name="__main__")


if __name__ == "__main__":
    main()

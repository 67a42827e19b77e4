"""`python -m bench NAME`: run one benchmark. A benchmark is a module of this package with `run() -> Report`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys
from pathlib import Path

from bench.harness import machine, publish

_SHARED = {"__main__", "floor", "harness", "load", "meter", "peers", "timeline", "traffic_sim"}


def main() -> int:
    """Run it; 0 when it came to its end, whatever it found."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=[name for name in names if name not in _SHARED])
    name = parser.parse_args().name
    # What was started is stopped on the way out, also when the benchmark is told to stop.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    before = machine()
    report = importlib.import_module(f"bench.{name}").run()
    publish(name, report, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())

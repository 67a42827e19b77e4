"""`python -m demo`: from nothing to policies that serve users, and go back when they should. `make demo` runs it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from demo import install, loop, own_rows, own_scene, quickstart, report, scene
from demo.cluster import ClusterError
from demo.columns import RowsError
from demo.run import Run, play
from demo.voice import Voice
from testbed.errors import BedError

NAMESPACE = "rlhf-demo"


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="JSON lines of your own: a prompt and two answers per row")
    parser.add_argument(
        "--columns",
        default="",
        help="names of your columns, such as prompt=question+context,responses=a+b,annotators=judge1+judge2",
    )
    parser.add_argument("--short", action="store_true", help="one PPO run against rules: no reward model, no traffic")
    parser.add_argument("--namespace", default=NAMESPACE, help="namespace of the demo's objects (default: %(default)s)")
    parser.add_argument("--build", type=Path, default=Path("build/demo"), help="folder for what is made on the way")
    return parser.parse_args(given)


def prepare(options: argparse.Namespace, voice: Voice) -> Run:
    """What is to be trained, on which rows: the quickstart, or the user's own data."""
    if options.data is None:
        return quickstart.prepare(options.build, voice)
    return own_rows.prepare(options.data, options.columns, options.build, voice)


def setting(options: argparse.Namespace, voice: Voice) -> scene.Scene:
    """What the whole loop is played with: the closed world, or the user's own data."""
    if options.data is None:
        return scene.support(options.build, voice)
    return own_scene.prepare(options.data, options.columns, options.build, voice)


def main(given: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when a policy was trained and published."""
    options = arguments(given)
    voice = Voice()
    started = time.monotonic()
    try:
        if options.columns and options.data is None:
            raise RowsError("--columns (DATA_COLUMNS) says how to read --data (DATA): name a file too")
        if options.short:
            run = prepare(options, voice)
            place = install.everything(options.namespace, voice)
            report.show(run, play(run, place, options.build, voice))
        else:
            found = setting(options, voice)
            loop.play(found, install.everything(options.namespace, voice, traffic=True), voice)
    except (BedError, ClusterError, RowsError) as error:
        voice.say(f"the demo stopped: {error}")
        return 1
    except KeyboardInterrupt:
        voice.say("stopped; `make demo` starts over, `make testbed-down` takes the cluster away")
        return 130
    voice.say(f"the whole demo took {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m testbed up|down|status`: the test bed from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from testbed import bed
from testbed.errors import BedError
from testbed.state import Profile


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the kubeconfig's path is the only thing on stdout."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the bed up and print the kubeconfig's path")
    up.add_argument("--profile", choices=[str(p) for p in Profile], default=str(Profile.CONTROL_PLANE))
    up.add_argument("--with", dest="addons", action="append", default=[], choices=[str(each) for each in bed.Addon])
    commands.add_parser("down", help="take the bed down and leave nothing behind")
    commands.add_parser("status", help="say what runs")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "up":
                print(bed.ensure(options.profile, addons=[bed.Addon(each) for each in options.addons]).kubeconfig)
            case "down":
                bed.down()
            case _:
                lines = bed.status()
                print("\n".join(lines) or "no bed is up")
                return 0 if lines else 1
    except BedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

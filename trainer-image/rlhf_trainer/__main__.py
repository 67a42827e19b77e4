"""`python -m rlhf_trainer launch | run | test-rewards | estimate | …`. Each command imports only what it needs."""

import argparse
import os
import signal
import sys
from pathlib import Path

from rlhf_operator.api.exitcodes import ExitCode

from .options import RunOptions, add_run_options, positive, quantity


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="rlhf_trainer", description="Trains one resolved plan.")
    commands = top.add_subparsers(dest="command", required=True)
    add_run_options(commands.add_parser("launch", help="PID 1 of a pod: start its ranks and say how they ended"))
    add_run_options(commands.add_parser("run", help="one rank, under torchrun or alone"))
    testing = commands.add_parser("test-rewards", help="what the plan's scorers make of texts that none should like")
    testing.add_argument("--plan", type=Path, required=True)
    testing.add_argument("--table", type=Path, help="JSON lines: prompt, chosen (a good answer), columns, rejected")
    testing.add_argument("--skip", action="append", metavar="SCORER", help="one that is meant to look at form alone")
    fetching = commands.add_parser("fetch", help="bring inputs from hubs and object stores; `launch` does it by itself")
    saying = commands.add_parser("collect", help="say what an existing result.json says")
    publishing = commands.add_parser("publish", help="make the artifact: manifest, digests, verdict, signature")
    for command in (fetching, saying, publishing):
        command.add_argument("--plan", type=Path, required=True)
        command.add_argument("--workspace", type=Path, required=True)
    fetching.add_argument("--attempt", type=positive, default=1, help="number of the attempt that fetches")
    publishing.add_argument("--output", type=Path, required=True)
    publishing.add_argument("--key", type=Path)
    publishing.add_argument("--settings", type=Path, help="settings.json: the limits of a RewardModel's gate")
    estimating = commands.add_parser("estimate", help="the memory that a plan needs, by part")
    estimating.add_argument("--plan", type=Path, required=True)
    estimating.add_argument("--micro-batch-size", type=positive, default=1, help="rows per device at a time")
    estimating.add_argument("--device-memory", type=quantity, help="hold the peak against it, for example 80Gi")
    estimating.add_argument("--base-model", type=Path, help="where the base model lies here, outside of a pod")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = parser().parse_args(argv)
    if arguments.command == "fetch":
        # The libraries read it when they are imported.
        os.environ.pop("HF_HUB_OFFLINE", None)
    else:
        # Models and data are read from volumes; nothing is asked of a hub.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    match arguments.command:
        case "launch":
            # PID 1 has no default handlers, and the imports take seconds.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.INTERRUPTED))
            from .launch import launch

            return launch(RunOptions.of(arguments))
        case "run":
            from .run import run_rank

            return run_rank(RunOptions.of(arguments))
        case "test-rewards":
            from .rewardtest import main as test_rewards

            return test_rewards(arguments)
        case "fetch":
            from .remote.fetch import main as fetch

            return fetch(arguments)
        case "collect":
            from .collect import main as collect

            return collect(arguments)
        case "estimate":
            from .memory.check import main as estimate

            return estimate(arguments)
        case _:
            from .publish import main as publish

            return publish(arguments)


if __name__ == "__main__":
    sys.exit(main())

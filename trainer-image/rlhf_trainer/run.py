"""One rank, from its command line to its exit code. The order of a run is here; its parts are elsewhere."""

import os
import sys
import traceback
from pathlib import Path

from rlhf_operator.api.plan import TrainingPlan

from .distributed import Group, join, leave
from .fencing import Workspace, finished
from .options import RunOptions, progress_port
from .outcome import Outcome, leave_outcome, outcome_of
from .plans import read_plan
from .progress import Reporter, say
from .session import Session
from .signals import StopFlag, heartbeat, show_stacks_on_signal
from .supported import check_supported

# A collective may be silent for longer than the watchdog waits, so that a hang is found where stacks are kept.
_COLLECTIVE_MARGIN_SECONDS = 300.0


def run_rank(options: RunOptions) -> int:
    """Run one rank; never returns to a caller that has more to do, for broken peers can block an orderly exit."""
    rank = int(os.environ.get("RANK", "0"))
    try:
        _run(options)
        outcome = outcome_of(rank, None)
    except Exception as error:
        outcome = outcome_of(rank, error)
        print(traceback.format_exc(), file=sys.stderr, flush=True)
    _end(outcome)
    return int(outcome.exit_code)


def _end(outcome: Outcome) -> None:
    say("end", rank=outcome.rank, failure=outcome.failure, reason=outcome.reason, message=outcome.message)
    leave_outcome(outcome)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: destructors of communicators whose peers are gone can hang or abort, and the code would be lost.
    os._exit(int(outcome.exit_code))


def _run(options: RunOptions) -> None:
    stop = StopFlag()
    stop.install()
    beat = heartbeat(int(os.environ.get("LOCAL_RANK", "0")))
    beat()
    plan = read_plan(options.plan)
    if finished(options.workspace, plan) is not None:
        say("already-finished", workspace=str(options.workspace))
        return
    check_supported(plan, options.micro_batch_size)
    workspace = Workspace(options.workspace, options.attempt)
    workspace.open()
    show_stacks_on_signal(workspace.own / "stacks" / f"rank-{os.environ.get('RANK', '0')}.txt")
    # Graders fork before torch starts threads and before the process group exists.
    from rlhf_scoring.scorers import build_scorers

    with build_scorers(plan.scorers) as scorers:
        group = join(plan.compute, plan.timeouts.progress_seconds + _COLLECTIVE_MARGIN_SECONDS)
        beat()
        _claim(workspace, group)
        reporter = _reporter(plan, options, group)
        Session(plan, options, workspace, group, scorers, stop, beat, reporter).run()
        group.barrier("the end of the run")
        if reporter is not None:
            reporter.close()
    leave()


def _claim(workspace: Workspace, group: Group) -> None:
    nonce = group.broadcast(workspace.claim() if group.is_main else "", "the claim of the workspace")
    workspace.see_claim(nonce, group.rank)
    group.barrier("the claim of the workspace")


def _reporter(plan: TrainingPlan, options: RunOptions, group: Group) -> Reporter | None:
    if not group.is_main:
        return None
    reporter = Reporter(plan.digest(), options.attempt, plan.training.steps)
    try:
        port = reporter.serve(progress_port())
    except OSError as error:
        # Training matters more than being watched.
        say("progress-not-served", port=progress_port(), error=str(error))
    else:
        say("started", plan=plan.digest(), attempt=options.attempt, port=port, workspace=str(Path(options.workspace)))
    return reporter

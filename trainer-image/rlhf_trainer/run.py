"""One rank, from its command line to its exit code. The order of a run is here; its parts are elsewhere."""

import contextlib
import os
import sys
import traceback
from pathlib import Path

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.plan import PlanScorer, RunPlan, TrainingPlan, workspace_name

from .distributed import Group, join, leave
from .fencing import Workspace, finished
from .history import History
from .options import RunOptions, progress_port
from .outcome import Outcome, leave_outcome, outcome_of
from .plans import AnyPlan, read_plan
from .progress import Reporter, say
from .remote.fetched import require_fetched, resolved_inputs
from .signals import StopFlag, heartbeat, show_stacks_on_signal
from .supported import check_reward_model, check_supported
from .trackers import trackers_of

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
        if outcome.failure is FailureClass.PEER_LOST:
            _keep_stack(_stacks(options), traceback.format_exc())
    _end(outcome)
    return int(outcome.exit_code)


def _stacks(options: RunOptions) -> Path:
    """Where this rank's stacks are kept."""
    return Workspace(options.workspace, options.attempt).own / "stacks" / f"rank-{os.environ.get('RANK', '0')}.txt"


def _keep_stack(file: Path, text: str) -> None:
    """Keep where this rank waited: a peer that hung may have been ended before anybody asked for these stacks."""
    with contextlib.suppress(OSError), open(file, "a") as stacks:
        stacks.write(text)


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
    if isinstance(plan, TrainingPlan):
        check_supported(plan, options.micro_batch_size)
    else:
        check_reward_model(plan, options.micro_batch_size)
    require_fetched(plan)
    workspace = Workspace(options.workspace, options.attempt)
    workspace.open()
    show_stacks_on_signal(_stacks(options))
    # Graders fork before torch starts threads and before the process group exists.
    from rlhf_scoring.build import build_scorers

    with build_scorers(_scorers(plan)) as scorers:
        group = join(plan.compute, plan.timeouts.progress_seconds + _COLLECTIVE_MARGIN_SECONDS)
        beat()
        _claim(workspace, group)
        reporter = _reporter(plan, options, workspace, group)
        try:
            if isinstance(plan, TrainingPlan):
                from .session import Session

                Session(plan, options, workspace, group, scorers, stop, beat, reporter).run()
            else:
                from .reward.session import RewardSession

                RewardSession(plan, options, workspace, group, scorers, stop, beat, reporter).run()
        finally:
            if reporter is not None:
                reporter.close()
        group.barrier("the end of the run")
    leave()


def _scorers(plan: AnyPlan) -> list[PlanScorer]:
    return plan.scorers if isinstance(plan, TrainingPlan) else [each.scorer for each in plan.graders]


def _claim(workspace: Workspace, group: Group) -> None:
    nonce = group.broadcast(workspace.claim() if group.is_main else "", "the claim of the workspace")
    workspace.see_claim(nonce, group.rank)
    group.barrier("the claim of the workspace")


def _reporter(plan: RunPlan, options: RunOptions, workspace: Workspace, group: Group) -> Reporter | None:
    if not group.is_main:
        return None
    # How many steps it takes to pass over data is known once that is read.
    steps = (plan.training.steps or 0) if isinstance(plan, TrainingPlan) else 0
    identity = workspace_name(plan.name, plan.digest())
    trackers = trackers_of(os.environ, plan.name, identity, workspace.root, say)
    reporter = Reporter(
        plan.digest(), options.attempt, steps, [History(workspace.own), *trackers], resolved_inputs(plan)
    )
    try:
        port = reporter.serve(progress_port())
    except OSError as error:
        # Training matters more than being watched.
        say("progress-not-served", port=progress_port(), error=str(error))
    else:
        say("started", plan=plan.digest(), attempt=options.attempt, port=port, workspace=str(Path(options.workspace)))
    return reporter

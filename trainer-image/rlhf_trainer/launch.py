"""PID 1 of a training pod: starts this pod's ranks by torchrun's agent, and turns their end into one exit code.

Plain torchrun would make every failure exit code 1 and kill ranks 30 s after SIGTERM whatever the pod's grace is.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.api.plan import TORCHRUN_PORT, RunPlan
from rlhf_operator.api.result import ResolvedInput, Result, TerminationMessage

from .cgroup import memory_limit_bytes, oom_kills
from .checkpoint import CheckpointStore, last_good
from .distributed import Group
from .errors import ConfigError, Crash, Interrupted, PeerLost, Stalled, TrainerError
from .fencing import Workspace, finished
from .options import RunOptions
from .outcome import HELPER_LOST, Outcome, outcome_of, read_outcomes, root_cause
from .plans import read_plan
from .progress import say
from .remote.fetched import fetch_environment, missing, resolved_inputs, wait_until_fetched
from .signals import RUN_DIRECTORY_VARIABLE, grace_seconds
from .termination import failure_message, success_message, write_termination_message
from .watchdog import Watchdog

# A pod that lost its peers lets the one that failed end first: the Job controller deletes the pods that are left then,
# and with them what they would have said.
LAST_TO_LEAVE_SECONDS = 10.0
# What the main thread gets to answer SIGTERM by itself.
_ANSWER_SECONDS = 3.0
_SIGKILL_CODES = (-9, 137)


@dataclass(frozen=True)
class Place:
    """Where this pod stands among the workers."""

    index: int
    workers: int
    master_address: str
    master_port: int
    processes: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Place":
        """Read what the operator put into the pod; one pod alone needs nothing."""
        try:
            return cls(
                index=int(environment.get("JOB_COMPLETION_INDEX", "0")),
                workers=int(environment.get("RLHF_WORKERS", "1")),
                master_address=environment.get("RLHF_MASTER_ADDR", "127.0.0.1"),
                master_port=int(environment.get("RLHF_MASTER_PORT", str(TORCHRUN_PORT))),
                processes=int(environment.get("RLHF_PROCS_PER_WORKER", "1")),
            )
        except ValueError as error:
            raise ConfigError(f"the pod's environment is wrong: {error}", reason="Environment") from error


def launch(options: RunOptions) -> int:
    """Run this pod's ranks to their end; writes the termination message and returns the exit code."""
    kills_before = oom_kills()
    # PID 1 has no default handlers: without this, SIGTERM would be lost until the agent listens.
    signal.signal(signal.SIGTERM, _stop_before_start)
    plan: RunPlan | None = None

    def give_up() -> None:
        outcome = outcome_of(0, Interrupted("asked to stop while waiting for the other workers"))
        os._exit(_end(plan, options, outcome, None))

    _leave_when_stopped_while_waiting(give_up)
    result: Result | None = None
    try:
        plan = read_plan(options.plan)
        outcome = Outcome(rank=0, at=datetime.now(UTC))
        if (result := finished(options.workspace, plan)) is None:
            place = Place.from_environment(os.environ)
            outcome = _attempt(plan, options, place, kills_before)
            result = finished(options.workspace, plan)
            if result is None and place.index == 0 and outcome.failure is None:
                raise Crash("every rank ended well, but there is no result.json", reason="NoResult")
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        outcome = outcome_of(0, error)
    if result is not None:
        outcome = Outcome(rank=0, at=datetime.now(UTC))
    return _end(plan, options, outcome, result)


def _leave_when_stopped_while_waiting(give_up: Callable[[], None]) -> None:
    """Call `give_up` when SIGTERM comes before a rank has started and the main thread can't answer.

    Waiting for the other pods happens inside torch's store, where Python's handlers don't run; only the interpreter's
    own handler does, which writes to a file descriptor.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        # The writer is named so that it lives as long as this thread.
        while writer and signal.SIGTERM not in reader.recv(16):
            pass
        time.sleep(_ANSWER_SECONDS)
        if not any(Path(os.environ.get(RUN_DIRECTORY_VARIABLE, os.devnull)).glob("heartbeat-*")):
            give_up()

    threading.Thread(target=watch, name="early-stop", daemon=True).start()


def _stop_before_start(number: int, frame: object) -> None:
    raise Interrupted("asked to stop before the ranks were started")


def _end(plan: RunPlan | None, options: RunOptions, outcome: Outcome, result: Result | None) -> int:
    message = success_message(result) if result is not None else _failure(plan, options, outcome)
    if plan is not None:
        message = message.model_copy(update={"sources": _sources(plan)})
    say("exit", code=int(outcome.exit_code), failure=outcome.failure, reason=outcome.reason, message=outcome.message)
    try:
        write_termination_message(message)
    except OSError as error:
        # The exit code still tells the class; a missing message must not turn it into another one.
        say("termination-message-not-written", error=str(error))
    sys.stdout.flush()
    return int(outcome.exit_code)


def _sources(plan: RunPlan) -> list[ResolvedInput]:
    try:
        return resolved_inputs(plan)
    except (TrainerError, OSError) as error:
        say("sources-not-read", error=str(error))
        return []


def _failure(plan: RunPlan | None, options: RunOptions, outcome: Outcome) -> TerminationMessage:
    checkpoint = None
    if plan is not None:
        alone = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
        store = CheckpointStore(
            Workspace(options.workspace, options.attempt), alone, plan.digest(), "step", plan.checkpoints.keep
        )
        try:
            found = store.complete()
            if outcome.failure is FailureClass.GUARD:
                found = last_good(found)
            checkpoint = found[-1].record() if found else None
        except (TrainerError, OSError) as error:
            say("checkpoints-not-read", error=str(error))
    return TerminationMessage(
        plan_digest=plan.digest() if plan is not None else "sha256:" + "0" * 64,
        attempt=options.attempt,
        # A worker other than the first may end well before it sees the result: that one is pod 0's to tell.
        failure=outcome.failure,
        reason=outcome.reason,
        message=outcome.message,
        step=checkpoint.step if checkpoint is not None else None,
        checkpoint=checkpoint,
    )


def _attempt(plan: RunPlan, options: RunOptions, place: Place, kills_before: int | None) -> Outcome:
    """Start the agent and the watchdog, and find out why they ended."""
    if (not_fetched := _fetch(plan, options, place)) is not None:
        return not_fetched
    wait_for_name(place.master_address, plan.timeouts.startup_seconds)
    with tempfile.TemporaryDirectory(prefix="rlhf-run-") as folder:
        run_directory = Path(folder)
        os.environ[RUN_DIRECTORY_VARIABLE] = folder
        stacks = options.workspace / "attempts" / str(options.attempt) / "stacks"
        watchdog = Watchdog(
            run_directory,
            stacks,
            plan.timeouts.progress_seconds,
            plan.timeouts.startup_seconds,
            place.processes,
            lambda stalled: _leave_stalled(plan, options, stalled),
        )
        watchdog.start()
        killed: dict[int, int] = {}
        interrupted = False
        trouble: Outcome | None = None
        try:
            launch_agent(
                _agent(plan, options, place), sys.executable, ["-m", "rlhf_trainer", "run", *options.arguments()]
            )
        except SignalException:
            interrupted = True
        except ChildFailedError as error:
            killed = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except Interrupted:
            # SIGTERM before the agent listened for it.
            raise
        except Exception as error:
            # The agents' own rendezvous: a pod that never came, or pod 0's store gone.
            trouble = outcome_of(0, PeerLost(f"the workers did not come together: {error}", reason="Rendezvous"))
        finally:
            # The agent's handler raises; from here on nothing is left to stop.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            watchdog.close()
        outcomes = read_outcomes(run_directory)
    if watchdog.stalled is not None:
        return outcome_of(0, Stalled(f"{watchdog.stalled}; stacks are in {stacks}"))
    explained = _explain(outcomes, killed, interrupted, trouble, kills_before)
    if explained.failure is FailureClass.PEER_LOST and place.workers > 1 and not interrupted:
        wait_for_stop(LAST_TO_LEAVE_SECONDS)
    return explained


def _fetch(plan: RunPlan, options: RunOptions, place: Place) -> Outcome | None:
    """Bring inputs from outside, in pod 0; the others wait for it. Returns why not, None when everything is there."""
    if place.index != 0:
        wait_until_fetched(plan, 2 * plan.timeouts.startup_seconds)
        return None
    if not missing(plan):
        return None
    arguments = ["--plan", str(options.plan), "--workspace", str(options.workspace), "--attempt", str(options.attempt)]
    with tempfile.TemporaryDirectory(prefix="rlhf-fetch-") as folder:
        child = subprocess.Popen(
            [sys.executable, "-m", "rlhf_trainer", "fetch", *arguments],
            env=fetch_environment() | {RUN_DIRECTORY_VARIABLE: folder},
        )
        try:
            code = child.wait(plan.timeouts.startup_seconds)
        except subprocess.TimeoutExpired as error:
            raise Crash(
                f"inputs were not fetched within timeouts.startup ({plan.timeouts.startup_seconds:.0f} s): raise it, "
                "or bring them nearer",
                reason="FetchTimeout",
            ) from error
        finally:
            # What is half-fetched has no name yet: nothing is lost but time.
            child.kill()
            child.wait()
        told = root_cause(read_outcomes(Path(folder)))
    return told if told is not None or code == 0 else _silent(0, code, out_of_memory=False, interrupted=False)


def _leave_stalled(plan: RunPlan, options: RunOptions, stalled: str) -> None:
    """End at once, without a look at the storage: it may be what hangs."""
    outcome = outcome_of(0, Stalled(f"{stalled}; the ranks did not end when they were killed, or the storage hangs"))
    write_termination_message(
        failure_message(plan.digest(), options.attempt, FailureClass.STALLED, outcome.reason, outcome.message)
    )
    os._exit(int(outcome.exit_code))


def _explain(
    outcomes: list[Outcome],
    exit_codes: Mapping[int, int],
    interrupted: bool,
    trouble: Outcome | None,
    kills_before: int | None,
) -> Outcome:
    """Name the class that explains the end of this pod.

    A rank that left words is believed; one that was killed left none, and only the kernel's counter tells whether for
    memory.
    """
    told = {outcome.rank for outcome in outcomes if outcome.failure is not None}
    kills = oom_kills()
    grown = kills is not None and kills > (kills_before or 0)
    found = [outcome for outcome in outcomes if outcome.failure is not None]
    found += [_silent(rank, code, grown, interrupted) for rank, code in exit_codes.items() if rank not in told]
    if trouble is not None:
        found.append(trouble)
    if (cause := root_cause(found)) is not None:
        # A grader's worker may have been killed for memory long before, at the cost of one score: the counter alone
        # proves nothing of this end. A rank that lost its helper for good names it.
        helper = grown and cause.failure is FailureClass.CRASH and cause.reason == HELPER_LOST
        return _out_of_memory(f"a helper of rank {cause.rank}", cause.rank) if helper else cause
    if interrupted:
        return Outcome(
            rank=0,
            failure=FailureClass.INTERRUPTED,
            reason="Interrupted",
            message="asked to stop before the next checkpoint; the last complete one is kept",
            at=datetime.now(UTC),
        )
    return Outcome(rank=0, at=datetime.now(UTC))


def _silent(rank: int, code: int, out_of_memory: bool, interrupted: bool) -> Outcome:
    """The outcome of a rank that left no words, from its exit code (negative: a signal's number)."""
    if code in _SIGKILL_CODES and out_of_memory:
        return _out_of_memory(f"rank {rank}", rank)
    failure, reason = (
        (FailureClass.INTERRUPTED, "Interrupted") if interrupted or code == -15 else (FailureClass.CRASH, "Killed")
    )
    ended = f"was ended by signal {-code}" if code < 0 else f"exited with {code}"
    return Outcome(rank=rank, failure=failure, reason=reason, message=f"rank {rank} {ended}", at=datetime.now(UTC))


def _out_of_memory(killed: str, rank: int) -> Outcome:
    limit = memory_limit_bytes()
    room = f" of {limit / 2**30:.1f} GiB" if limit is not None else ""
    return Outcome(
        rank=rank,
        failure=FailureClass.OUT_OF_MEMORY,
        reason="OOMKilled",
        message=f"the kernel killed {killed}: the container's memory limit{room} was reached; lower "
        "training.microBatchSize, or raise compute.resources",
        at=datetime.now(UTC),
    )


def _agent(plan: RunPlan, options: RunOptions, place: Place) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=place.workers,
        max_nodes=place.workers,
        nproc_per_node=place.processes,
        run_id=f"{plan.name}-{options.attempt}",
        role="trainer",
        rdzv_backend="static",
        rdzv_endpoint=f"{place.master_address}:{place.master_port}",
        rdzv_configs={"rank": place.index, "timeout": int(plan.timeouts.startup_seconds)},
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=int(grace_seconds()),
    )


def wait_for_stop(seconds: float) -> None:
    """Wait until SIGTERM comes, at most so long."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        asked.wait(seconds)
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_for_name(name: str, seconds: float) -> None:
    """Wait until pod 0's name can be resolved: its DNS record appears some time after the pod. Raises PeerLost."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(name, None)
            return
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise PeerLost(
                    f"{name} could not be resolved within timeouts.startup ({seconds:.0f} s): {error}",
                    reason="PeersNotFound",
                ) from error
        time.sleep(0.5)

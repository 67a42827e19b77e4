"""What the launcher makes of dead ranks, and what PID 1 owes its container."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_scoring.errors import SandboxError
from rlhf_trainer import launch, watchdog
from rlhf_trainer.errors import ConfigError, PeerLost
from rlhf_trainer.launch import Place, _explain, wait_for_name, wait_for_stop
from rlhf_trainer.outcome import Outcome, outcome_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def said(failure: FailureClass | None, rank: int = 0, reason: str = "Said") -> Outcome:
    return Outcome(rank=rank, failure=failure, reason=reason, message="last words", at=NOW)


def explain(
    monkeypatch: pytest.MonkeyPatch,
    outcomes: list[Outcome],
    codes: dict[int, int],
    kills: int | None = 0,
    interrupted: bool = False,
    trouble: Outcome | None = None,
) -> Outcome:
    monkeypatch.setattr(launch, "oom_kills", lambda: kills)
    return _explain(outcomes, codes, interrupted, trouble, kills_before=0)


def test_the_last_words_of_a_rank_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = explain(monkeypatch, [said(FailureClass.GUARD)], {0: 80})
    assert (found.failure, found.message) == (FailureClass.GUARD, "last words")


def test_a_rank_killed_without_a_word_is_out_of_memory_only_if_the_kernel_counted_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert explain(monkeypatch, [], {0: -9}, kills=1).failure is FailureClass.OUT_OF_MEMORY
    assert "microBatchSize" in explain(monkeypatch, [], {0: -9}, kills=1).message
    assert explain(monkeypatch, [], {0: -9}, kills=0).failure is FailureClass.CRASH
    assert explain(monkeypatch, [], {0: -9}, kills=None).failure is FailureClass.CRASH


def test_a_rank_whose_helper_was_killed_for_memory_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = outcome_of(0, SandboxError("the graders' fork server ended with code -9"))
    found = explain(monkeypatch, [lost], {0: 70}, kills=1)
    assert found.failure is FailureClass.OUT_OF_MEMORY
    assert "a helper of rank 0" in found.message
    assert explain(monkeypatch, [lost], {0: 70}, kills=0).failure is FailureClass.CRASH


@pytest.mark.parametrize("failure", [FailureClass.CRASH, FailureClass.PEER_LOST])
def test_a_grader_that_was_killed_for_memory_and_replaced_explains_no_later_end(
    monkeypatch: pytest.MonkeyPatch, failure: FailureClass
) -> None:
    assert explain(monkeypatch, [said(failure)], {0: 70}, kills=1).failure is failure


def test_a_helper_killed_for_memory_does_not_excuse_a_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain(monkeypatch, [said(FailureClass.GUARD)], {0: 80}, kills=3).failure is FailureClass.GUARD


def test_the_rank_that_died_explains_the_one_that_lost_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = explain(monkeypatch, [said(FailureClass.PEER_LOST, rank=0)], {0: 82, 1: -11})
    assert found.failure is FailureClass.CRASH
    assert "rank 1 was ended by signal 11" in found.message


def test_ranks_killed_after_the_grace_were_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain(monkeypatch, [], {}, interrupted=True).failure is FailureClass.INTERRUPTED
    assert explain(monkeypatch, [], {0: -15}).failure is FailureClass.INTERRUPTED


def test_ranks_that_ended_well_are_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain(monkeypatch, [said(None), said(None, rank=1)], {}).failure is None


def test_a_pod_alone_needs_no_environment_and_a_wrong_one_is_a_config_error() -> None:
    assert Place.from_environment({}) == Place(0, 1, "127.0.0.1", 29400, 1)
    with pytest.raises(ConfigError, match="environment"):
        Place.from_environment({"RLHF_WORKERS": "many"})


def test_a_name_that_never_resolves_is_named() -> None:
    wait_for_name("localhost", 1)
    with pytest.raises(PeerLost, match=r"nobody\.invalid could not be resolved"):
        wait_for_name("nobody.invalid", 0)


def test_a_pod_that_lost_its_peers_leaves_at_once_when_it_is_asked_to() -> None:
    started = time.monotonic()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    wait_for_stop(60)
    timer.join()
    assert 0.1 < time.monotonic() - started < 30
    wait_for_stop(0.01)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_reaper_takes_what_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "grace_seconds", lambda: -60.0)
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    reap = watchdog.orphan_reaper(is_init=True)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        reap()
        os.sched_yield()


def test_only_pid_1_reaps() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    reap = watchdog.orphan_reaper()
    reap()
    assert child.wait(30) == 3
    assert child.pid not in watchdog.child_ranks()


@pytest.mark.parametrize("clock", [0, 1 << 32], ids=["clock behind", "clock ahead"])
def test_a_hang_of_the_storage_itself_does_not_save_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: int
) -> None:
    monkeypatch.setattr(watchdog, "STACKS_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "LAST_STACKS_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "LEAVE_SECONDS", 0.05)
    code = (
        "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); signal.signal(signal.SIGUSR2, signal.SIG_IGN)\n"
        "print(1, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as rank:
        assert rank.stdout is not None
        rank.stdout.readline()
        monkeypatch.setattr(watchdog, "child_ranks", lambda: [rank.pid])
        # Whoever opens a pipe that nobody reads waits for ever, as on a dead file server.
        os.mkfifo(tmp_path / f"pid-{rank.pid}.txt")
        (tmp_path / "heartbeat-0").touch()
        os.utime(tmp_path / "heartbeat-0", (clock, clock))
        left: list[str] = []
        gone = threading.Event()

        def leave(stalled: str) -> None:
            left.append(stalled)
            gone.set()

        made = watchdog.Watchdog(tmp_path, tmp_path, 1.0, 1.0, 1, leave)
        made.start()
        try:
            assert rank.wait(60) == -9
            assert gone.wait(60)
        finally:
            rank.kill()
            made.close()
    assert "no new step" in left[0]

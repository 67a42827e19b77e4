"""What the watchdog does to ranks that it finds hanging, with real processes and no cluster."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlhf_trainer import watchdog

# A rank that makes a step every 20 ms, beside threads of libraries; and one that is stuck for good, not by a signal.
STEPS = """
import sys, threading, time
from pathlib import Path
from rlhf_trainer.signals import show_stacks_on_signal
show_stacks_on_signal(Path(sys.argv[1]))
def computes():
    while True:
        time.sleep(0.001)
for _ in range(16):
    threading.Thread(target=computes, daemon=True).start()
def train():
    with open(sys.argv[2], "a") as steps:
        while True:
            steps.write("step\\n")
            steps.flush()
            time.sleep(0.02)
train()
"""
STUCK = """
import signal, sys
from pathlib import Path
from rlhf_trainer.signals import show_stacks_on_signal
show_stacks_on_signal(Path(sys.argv[1]))
def waits():
    open(sys.argv[2], "a").write("step\\n")
    while True:
        signal.pause()
waits()
"""


@contextmanager
def rank(program: str, stacks: Path, steps: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", program, str(stacks), str(steps)])
    try:
        until(lambda: count(steps) > 0)
        yield process
    finally:
        process.kill()
        process.wait()


def count(steps: Path) -> int:
    return steps.read_bytes().count(b"\n") if steps.exists() else 0


def waiting(pid: int, number: signal.Signals) -> bool:
    """Whether a signal was sent to a stopped process that will see it once it is woken."""
    (mask,) = (line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "ShdPnd" in line)
    return bool(int(mask, 16) >> (number - 1) & 1)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[int]], watchdog.Watchdog]]:
    made: list[watchdog.Watchdog] = []

    def start(pids: list[int]) -> watchdog.Watchdog:
        monkeypatch.setattr(watchdog, "STACKS_SECONDS", 1.0)
        monkeypatch.setattr(watchdog, "child_ranks", lambda: pids)
        for local_rank in range(len(pids)):
            (tmp_path / f"heartbeat-{local_rank}").touch()
        found = watchdog.Watchdog(tmp_path, tmp_path / "stacks", 0.5, 0.5, len(pids))
        found.start()
        made.append(found)
        return found

    yield start
    for each in made:
        each.close()


def test_a_stopped_rank_is_woken_for_its_stacks_and_does_not_train_on(
    tmp_path: Path, watch: Callable[[list[int]], watchdog.Watchdog]
) -> None:
    stacks, steps = tmp_path / "rank-0.txt", tmp_path / "steps"
    with rank(STEPS, stacks, steps) as process:
        process.send_signal(signal.SIGSTOP)
        # Not Popen's own wait, which knows nothing of stopped children.
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        before = count(steps)
        found = watch([process.pid])
        until(lambda: (tmp_path / "stacks" / f"pid-{process.pid}.txt").exists())
        assert not waiting(process.pid, signal.SIGUSR1)
        assert process.wait(60) == -signal.SIGUSR2
        assert count(steps) <= before + 1
        assert found.stalled is not None
    # Whole, that is once and to the end: the thread that trains is the last in the list.
    text = stacks.read_text()
    assert text.count("in train") == 1
    assert text.count("in computes") == 16


def test_every_rank_of_the_pod_has_its_stacks_before_the_first_is_ended(
    tmp_path: Path, watch: Callable[[list[int]], watchdog.Watchdog]
) -> None:
    with (
        rank(STEPS, tmp_path / "rank-0.txt", tmp_path / "steps-0") as stopped,
        rank(STUCK, tmp_path / "rank-1.txt", tmp_path / "steps-1") as stuck,
    ):
        stopped.send_signal(signal.SIGSTOP)
        watch([stopped.pid, stuck.pid])
        until(lambda: "in waits" in (tmp_path / "rank-1.txt").read_text())
        assert stopped.poll() is None
        assert stuck.poll() is None
        assert stopped.wait(60) == -signal.SIGUSR2
        assert stuck.wait(60) == -signal.SIGKILL

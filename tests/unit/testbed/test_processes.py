"""Daemons are known by pid and start time; nobody else's process is ever signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.errors import NotReadyError
from testbed.processes import Daemons, Record, alive, boot_id, start_ticks, stop, tail
from testbed.progress import wait_until

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    made = Daemons(tmp_path / "daemons", tmp_path / "logs")
    yield made
    for record in made.records():
        made.stop(record.name, grace_seconds=0)


def _await_up(daemons: Daemons, name: str) -> None:
    wait_until(f"{name}'s first line", lambda: "up" in tail(daemons.log(name)), 30)


def test_a_daemon_runs_is_recorded_and_ends_on_stop(daemons: Daemons) -> None:
    record = daemons.start("sleeper", SLEEP)
    assert daemons.running("sleeper")
    assert os.getsid(record.pid) == record.pid
    daemons.stop("sleeper")
    assert not alive(record)
    assert daemons.records() == []


def test_one_that_ignores_sigterm_is_killed_after_the_grace_time(daemons: Daemons) -> None:
    record = daemons.start("stubborn", STUBBORN)
    _await_up(daemons, "stubborn")
    daemons.stop("stubborn", grace_seconds=0.2)
    assert not alive(record)


def test_a_reused_pid_is_not_signalled() -> None:
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as bystander:
        try:
            ticks = start_ticks(bystander.pid)
            assert ticks is not None
            stale = Record(name="old", pid=bystander.pid, start_ticks=ticks - 1, boot_id=boot_id(), argv=SLEEP)
            stop(stale, grace_seconds=0)
            other_boot = stale.model_copy(update={"start_ticks": ticks, "boot_id": "another"})
            stop(other_boot, grace_seconds=0)
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_an_ended_daemon_is_reported_with_the_end_of_its_log(daemons: Daemons) -> None:
    daemons.start("failing", [sys.executable, "-c", "import sys, time; time.sleep(0.3); sys.exit('no such flag')"])
    wait_until("its end", lambda: not daemons.running("failing"), 30)
    with pytest.raises(NotReadyError, match="no such flag"):
        daemons.check("failing")


def test_a_daemon_that_ended_early_is_started_again_until_it_stays(daemons: Daemons, tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "starts = pathlib.Path(sys.argv[1]); starts.write_text(starts.read_text() + '.')\n"
        "if len(starts.read_text()) < 3: sys.exit('the runtime is not initialised')\n"
        "print('up', flush=True); time.sleep(600)\n"
    )
    starts = tmp_path / "starts"
    starts.touch()
    argv = [sys.executable, "-c", code, str(starts)]
    revive = daemons.reviver("kubelet", argv, times=10)
    daemons.start("kubelet", argv)

    def up() -> bool:
        revive()
        return "up" in tail(daemons.log("kubelet"))

    wait_until("the third start", up, 30)
    revive()
    assert starts.read_text() == "...", "one that runs is left alone"
    daemons.check("kubelet")


def test_a_daemon_that_never_stays_is_given_up_and_its_words_are_shown(daemons: Daemons, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    argv = [sys.executable, "-c", f"open({str(starts)!r}, 'a').write('.'); raise SystemExit('no such flag')"]

    def await_end(times: int) -> None:
        def ended() -> bool:
            return tail(daemons.log("kubelet")).count("no such flag") == times and not daemons.running("kubelet")

        wait_until(f"end {times}", ended, 30)

    revive = daemons.reviver("kubelet", argv, times=2)
    daemons.start("kubelet", argv)
    await_end(1)
    for times in (2, 3):
        revive()
        await_end(times)
    revive()
    with pytest.raises(NotReadyError, match="no such flag"):
        daemons.check("kubelet")
    assert starts.read_text() == "..."


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_ticks(child.pid) is None


def test_a_command_name_with_blanks_and_parentheses_is_read(tmp_path: Path) -> None:
    odd = tmp_path / "a) b (c"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "600"]) as child:
        try:
            assert start_ticks(child.pid) is not None
        finally:
            child.send_signal(signal.SIGKILL)

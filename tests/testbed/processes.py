"""Daemons that the bed starts, known by pid and start time, so that only its own processes are ever signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from testbed.errors import NotReadyError

_REAP_INTERVAL_SECONDS = 0.05


class Record(BaseModel):
    """Identity of one process: a pid alone may have been given to somebody else since."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pid: int
    start_ticks: int
    boot_id: str
    argv: list[str]


def boot_id() -> str:
    """The kernel's id of this boot: pids and start times mean nothing across boots."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process, or None when there is none (or only a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may hold spaces: count fields from the last ")".
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


class Daemons:
    """The daemons of one bed, recorded in a folder."""

    def __init__(self, records: Path, logs: Path) -> None:
        self._records = records
        self._logs = logs

    def log(self, name: str) -> Path:
        """The daemon's log file."""
        return self._logs / f"{name}.log"

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Record:
        """Start a daemon in a session of its own and record it. Its output goes to the log."""
        self._records.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=None if env is None else dict(env),
                cwd=self._records.parent,
            )
        ticks = start_ticks(process.pid)
        if ticks is None:
            raise NotReadyError(f"{name} ended at once; look at {self.log(name)}")
        record = Record(name=name, pid=process.pid, start_ticks=ticks, boot_id=boot_id(), argv=list(argv))
        (self._records / f"{name}.json").write_text(record.model_dump_json())
        # The daemon outlives this process on purpose; without this, Popen warns when it is collected.
        process.returncode = 0
        return record

    def records(self) -> list[Record]:
        """All recorded daemons, running or not."""
        if not self._records.is_dir():
            return []
        return [Record.model_validate_json(path.read_text()) for path in sorted(self._records.glob("*.json"))]

    def get(self, name: str) -> Record | None:
        """The record of one daemon."""
        path = self._records / f"{name}.json"
        return Record.model_validate_json(path.read_text()) if path.exists() else None

    def running(self, name: str) -> bool:
        """Whether the recorded daemon lives."""
        record = self.get(name)
        return record is not None and alive(record)

    def check(self, name: str) -> None:
        """Raise NotReadyError with the end of the log when a daemon has died."""
        if not self.running(name):
            raise NotReadyError(f"{name} ended; the end of {self.log(name)}:\n{tail(self.log(name))}")

    def reviver(self, name: str, argv: Sequence[str], times: int) -> Callable[[], None]:
        """What to call while waiting for a daemon: when it has ended it is started again, `times` times at most."""
        left = iter(range(times))

        def revive() -> None:
            if not self.running(name) and next(left, None) is not None:
                self.start(name, argv)

        return revive

    def stop(self, name: str, grace_seconds: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after the grace time; forgets the record. Does nothing to a process not ours."""
        record = self.get(name)
        if record is not None:
            stop(record, grace_seconds)
            (self._records / f"{name}.json").unlink(missing_ok=True)


def alive(record: Record) -> bool:
    """Whether the very process of the record lives."""
    return record.boot_id == boot_id() and start_ticks(record.pid) == record.start_ticks


def stop(record: Record, grace_seconds: float) -> None:
    """SIGTERM, wait, SIGKILL, wait; only while the pid is still the recorded process."""
    for signum, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        if not alive(record):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signum)
        deadline = time.monotonic() + patience
        while alive(record) and time.monotonic() < deadline:
            time.sleep(_REAP_INTERVAL_SECONDS)
    if record.boot_id == boot_id() and start_ticks(record.pid) is None:
        _reap(record.pid)


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a text file."""
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _reap(pid: int) -> None:
    """Collect the process if it is an ended child of ours; a zombie would look alive to others."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)

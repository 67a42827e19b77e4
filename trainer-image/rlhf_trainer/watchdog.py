"""Watches the ranks of this pod: no heartbeat for too long means stacks on the workspace, then the end.

Also collects orphans, since this process is PID 1 of its container.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .signals import LAST_STACK_SIGNAL, STACK_SIGNAL, grace_seconds

_PERIOD_SECONDS = 0.5
_LAST_PERIOD_SECONDS = 0.05
# Long enough for the ranks of other pods, which stall with ours, to have their stacks written too: the end of ours is a
# lost peer to them.
STACKS_SECONDS = 5.0
# For the last stacks of a rank that can still write them.
LAST_STACKS_SECONDS = 10.0
# For the agent to collect its killed ranks and for the last words. Storage that hangs can hold up both for ever.
LEAVE_SECONDS = 60.0


class Watchdog:
    """A thread beside the agent."""

    def __init__(
        self,
        run_directory: Path,
        stacks: Path,
        progress_seconds: float,
        startup_seconds: float,
        ranks: int,
        leave: Callable[[str], None] = lambda stalled: None,
    ) -> None:
        """leave: ends this process when it still runs LEAVE_SECONDS after its ranks were killed."""
        self._run_directory = run_directory
        self._stacks = stacks
        self._progress_seconds = progress_seconds
        self._startup_seconds = startup_seconds
        self._ranks = ranks
        self._leave = leave
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._started = time.monotonic()
        self._beats: dict[int, tuple[int, float]] = {}
        """By local rank: when its file says it beat last, and when that was first seen. Only the latter is counted
        from, for the wall clock may be set while a run goes on."""
        self.stalled: str | None = None
        """Says what was found, once a rank stalled."""

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        reaper = orphan_reaper()
        while not self._stop.wait(_PERIOD_SECONDS):
            reaper()
            silent = self._silence()
            if silent is not None:
                self.stalled = silent
                self._end_ranks()
                timer = threading.Timer(LEAVE_SECONDS, self._leave, [silent])
                timer.daemon = True
                timer.start()
                return

    def _silence(self) -> str | None:
        """Say which rank has been silent for too long, or None."""
        now = time.monotonic()
        for local_rank in range(self._ranks):
            beat = self._run_directory / f"heartbeat-{local_rank}"
            try:
                written, limit = beat.stat().st_mtime_ns, self._progress_seconds
                if local_rank not in self._beats or self._beats[local_rank][0] != written:
                    self._beats[local_rank] = (written, now)
                since = now - self._beats[local_rank][1]
            except FileNotFoundError:
                since, limit = now - self._started, self._startup_seconds + self._progress_seconds
            if since > limit:
                return f"no new step for {since:.0f} s (local rank {local_rank}; timeouts.progress is {limit:.0f} s)"
        return None

    def _end_ranks(self) -> None:
        """Have every rank write its stacks, note what the kernel says of it, and end it.

        A rank that was stopped writes nothing until it is woken, and would then train on, perhaps to the end: it is
        woken last, by a signal after which it only writes its stacks and dies. It gets no other: of two that wait for
        it, different threads may take one each, and the one that dies would cut the other's words off.
        """
        pids = child_ranks()
        stopped = [pid for pid in pids if _state(pid) == "T"]
        notes = {pid: _kernel_words(pid) for pid in pids}
        for pid in set(pids) - set(stopped):
            _signal(pid, STACK_SIGNAL)
        # The storage may be what hangs: the ranks end whether or not it takes the notes.
        threading.Thread(target=self._write_notes, args=(notes,), name="stacks", daemon=True).start()
        self._stop.wait(STACKS_SECONDS)
        for pid in stopped:
            _signal(pid, LAST_STACK_SIGNAL)
            _signal(pid, signal.SIGCONT)
        deadline = time.monotonic() + LAST_STACKS_SECONDS
        while time.monotonic() < deadline and any(_state(pid) not in (None, "Z") for pid in stopped):
            time.sleep(_LAST_PERIOD_SECONDS)
        for pid in pids:
            _signal(pid, signal.SIGKILL)

    def _write_notes(self, notes: Mapping[int, str]) -> None:
        with contextlib.suppress(OSError):
            self._stacks.mkdir(parents=True, exist_ok=True)
            for pid, text in notes.items():
                (self._stacks / f"pid-{pid}.txt").write_text(text)


def _kernel_words(pid: int) -> str:
    """Status of a process and where in the kernel it waits."""
    found = []
    for name in ("status", "wchan"):
        with contextlib.suppress(OSError):
            found.append(f"{name}: {Path(f'/proc/{pid}/{name}').read_text()}\n")
    return "".join(found)


def _state(pid: int) -> str | None:
    """The letter that the kernel has for what a process does: T is stopped, Z has ended; None: it is gone."""
    fields = _stat(pid)
    return fields[0] if fields is not None else None


def child_ranks() -> list[int]:
    """The processes that this one started and that still run."""
    own = os.getpid()
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            fields = _stat(int(path.name))
            if fields is not None and int(fields[1]) == own and fields[0] != "Z":
                found.append(int(path.name))
    return sorted(found)


def orphan_reaper(is_init: bool | None = None) -> Callable[[], None]:
    """Return what collects ended processes that were handed to PID 1, and only those.

    A child that the agent started is left alone: its exit code is the agent's to read. What is still a zombie when the
    agent must have read it is nobody's: an orphan that was handed to us.
    """
    if not (os.getpid() == 1 if is_init is None else is_init):
        return lambda: None
    seen: dict[int, int] = {}
    # The agent collects its own children within a tenth of a second, except while it waits for a slow shutdown.
    patience = grace_seconds() + 60.0

    def reap() -> None:
        own = os.getpid()
        zombies = set()
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                fields = _stat(int(path.name))
                if fields is not None and fields[0] == "Z" and int(fields[1]) == own:
                    zombies.add(int(path.name))
        for pid in zombies:
            seen[pid] = seen.get(pid, 0) + 1
            if seen[pid] * _PERIOD_SECONDS > patience:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        for pid in set(seen) - zombies:
            del seen[pid]

    return reap


def _stat(pid: int) -> list[str] | None:
    """State, parent, … of a process: /proc/<pid>/stat behind the name, which may itself hold blanks and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

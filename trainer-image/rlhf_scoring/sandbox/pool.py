"""The trainer's side of the sandbox: starts the fork server, keeps workers busy, replaces those that hang or die."""

import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rlhf_scoring.errors import SandboxError

from . import frames
from .server import MESSAGE_BYTES

LOAD_SECONDS = 60.0
"""Longest time for a worker to start and to import the grader's module."""
_DEATH_GRACE_SECONDS = 0.5
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from rlhf_scoring.sandbox.server import main; main(int(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Scored:
    """The function's answer; None: it has no score."""

    score: float | None


@dataclass(frozen=True, slots=True)
class Raised:
    """The function raised, or returned what is no score."""

    reason: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The call ran longer than allowed; its worker was killed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended during the call."""

    how: str


Outcome = Scored | Raised | TimedOut | Died


class LoadFailed(Exception):
    """The grader's module can't be imported, or lacks the function."""


class ForkServer:
    """The helper process that forks workers.

    It is executed, not forked: nothing of torch, CUDA or our environment reaches it.
    """

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = [os.path.abspath(entry) for entry in sys.path]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", _BOOT, json.dumps(path), str(theirs.fileno())],
                env=_clean_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._control.settimeout(LOAD_SECONDS)
        # Several pools ask one server, each in its scorer's thread.
        self._lock = threading.Lock()

    def spawn(self, role: str) -> tuple[int, socket.socket]:
        """Fork one worker; returns its process id and our end of its socket. role: `grader` or `tests`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                request = json.dumps({"spawn": role}).encode()
                with self._lock:
                    socket.send_fds(self._control, [request], [theirs.fileno()])
                    return int(self._answer()["pid"]), ours
        except (OSError, SandboxError):
            ours.close()
            raise

    def end(self, pid: int, grace_seconds: float = 0.0) -> str:
        """End a worker and say how it ended. The server does it: only a parent can be sure whom an id names."""
        with self._lock:
            self._control.send(json.dumps({"kill": pid, "grace": grace_seconds}).encode())
            return str(self._answer()["ended"])

    def close(self) -> None:
        """Hang up; the server takes its workers along."""
        self._control.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        try:
            data = self._control.recv(MESSAGE_BYTES)
        except OSError as error:
            raise SandboxError(f"the graders' fork server does not answer: {error}") from error
        if not data:
            raise SandboxError(f"the graders' fork server ended with code {self._process.poll()}")
        answer: dict[str, Any] = json.loads(data)
        return answer


def _clean_environment() -> dict[str, str]:
    """Nothing of ours but the paths that a program needs: tokens and addresses stay out."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    fixed = {
        "LANG": "C.UTF-8",
        "HOME": os.environ.get("TMPDIR", "/tmp"),  # noqa: S108 - a grader gets no home of its own
        "OMP_NUM_THREADS": "1",
        # A set's order must not differ from run to run.
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return kept | fixed


@dataclass(slots=True)
class _Worker:
    pid: int
    connection: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    call: int = -1
    deadline: float = 0.0


class Pool:
    """Workers that all hold the same function. One call per worker at a time; results keep the calls' order."""

    def __init__(
        self,
        server: ForkServer,
        load: dict[str, Any],
        *,
        workers: int,
        timeout_seconds: float,
        role: str = "grader",
        once: bool = False,
    ) -> None:
        """Start one worker, so that what can't be loaded is known at once; the others start when they are needed.

        once: a worker answers one call only, so that nothing of it meets the next.
        Raises LoadFailed; SandboxError when it takes too long.
        """
        self._server = server
        self._role = role
        self._once = once
        self._load = frames.encode(load)
        self._timeout = timeout_seconds
        self._limit = workers
        self._idle: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}
        self.code_digest = ""
        self._idle.append(self._start())

    def run(self, calls: Sequence[dict[str, Any]]) -> list[tuple[Outcome, float]]:
        """Make every call; returns each one's outcome and its seconds, in order."""
        outcomes: list[tuple[Outcome, float] | None] = [None] * len(calls)
        waiting = deque(range(len(calls)))
        with selectors.DefaultSelector() as selector:
            while waiting or self._busy:
                while waiting and (worker := self._take()) is not None:
                    number = waiting.popleft()
                    outcome = self._send(worker, number, calls[number])
                    if outcome is None:
                        selector.register(worker.connection, selectors.EVENT_READ, worker)
                        self._busy[worker.pid] = worker
                    else:
                        outcomes[number] = (outcome, self._timeout)
                if not self._busy:
                    continue
                patience = min(worker.deadline for worker in self._busy.values()) - time.monotonic()
                ready = [key.data for key, _ in selector.select(max(patience, 0))]
                late = [w for w in self._busy.values() if w not in ready and time.monotonic() >= w.deadline]
                for worker in [*ready, *late]:
                    result = self._read(worker) if worker in ready else TimedOut(self._timeout)
                    if result is None:
                        continue
                    selector.unregister(worker.connection)
                    del self._busy[worker.pid]
                    seconds = time.monotonic() - worker.deadline + self._timeout
                    outcomes[worker.call] = (self._settle(worker, result), seconds)
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """End every worker."""
        for worker in [*self._idle, *self._busy.values()]:
            self._discard(worker)
        self._idle, self._busy = [], {}

    def _take(self) -> _Worker | None:
        if self._idle:
            return self._idle.pop()
        return self._start() if len(self._busy) < self._limit else None

    def _start(self) -> _Worker:
        pid, connection = self._server.spawn(self._role)
        worker = _Worker(pid, connection)
        connection.settimeout(LOAD_SECONDS)
        try:
            connection.sendall(self._load)
            answer = frames.receive(connection, worker.buffer, frames.REPLY_BYTES)
        except TimeoutError:
            self._discard(worker)
            # A busy node may take as long: another attempt can help, so this is no word on the grader.
            raise SandboxError(f"importing a grader's module took longer than {LOAD_SECONDS:.0f} s") from None
        except (OSError, frames.FrameError) as error:
            raise LoadFailed(f"its worker {self._discard(worker, _DEATH_GRACE_SECONDS)}: {error}") from error
        if answer is None:
            raise LoadFailed(f"importing it ended its worker: {self._discard(worker, _DEATH_GRACE_SECONDS)}")
        if "digest" not in answer:
            self._discard(worker)
            raise LoadFailed(str(answer.get("error")))
        self.code_digest = str(answer["digest"])
        return worker

    def _send(self, worker: _Worker, number: int, call: dict[str, Any]) -> Outcome | None:
        """Hand a call to a worker; an outcome only when that already failed."""
        worker.call = number
        worker.deadline = time.monotonic() + self._timeout
        worker.connection.settimeout(self._timeout)
        try:
            worker.connection.sendall(frames.encode(call))
        except TimeoutError:
            self._discard(worker)
            return TimedOut(self._timeout)
        except frames.FrameError as error:
            self._idle.append(worker)
            return Raised(str(error))
        except OSError:
            return Died(self._discard(worker, _DEATH_GRACE_SECONDS))
        return None

    def _read(self, worker: _Worker) -> Outcome | None:
        """What arrived from a worker that has something to say; None while the message is not whole."""
        try:
            data = worker.connection.recv(1 << 16)
            if not data:
                return Died("")
            worker.buffer += data
            answer = frames.decode(worker.buffer, frames.REPLY_BYTES)
        except (OSError, frames.FrameError) as error:
            return Died(str(error))
        if answer is None:
            return None
        score = answer.get("score")
        if "score" in answer and (score is None or isinstance(score, int | float)):
            return Scored(None if score is None else float(score))
        return Raised(str(answer.get("error", "no score")))

    def _settle(self, worker: _Worker, outcome: Outcome) -> Outcome:
        """Take a worker back, or end it when its call did not end properly."""
        if isinstance(outcome, Scored | Raised) and not worker.buffer and not self._once:
            self._idle.append(worker)
            return outcome
        how = self._discard(worker, _DEATH_GRACE_SECONDS if isinstance(outcome, Died) else 0.0)
        return Died(outcome.how or how) if isinstance(outcome, Died) else outcome

    def _discard(self, worker: _Worker, grace_seconds: float = 0.0) -> str:
        worker.connection.close()
        return self._server.end(worker.pid, grace_seconds)

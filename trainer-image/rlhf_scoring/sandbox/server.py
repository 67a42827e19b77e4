"""The fork server: a small, single-threaded Python process, without torch, that forks and reaps workers.

Started as `python -I -c …` by pool.py with one SOCK_SEQPACKET socket; it ends when that socket does.
"""

import gc
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from . import solution, testing, worker

MESSAGE_BYTES = 4096


def main(descriptor: int) -> None:
    """Serve `spawn` and `kill` until the other side is gone, then take every worker along."""
    control = socket.socket(fileno=descriptor)
    # A worker's id, and those of the processes that live and die with it.
    workers: dict[int, list[int]] = {}
    # A signal for the whole process group (Ctrl-C) is the trainer's business; it ends this process by hanging up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.freeze()
    try:
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
            if not data:
                return
            request = json.loads(data)
            if "spawn" in request:
                with socket.socket(fileno=descriptors[0]) as connection:
                    pid, *others = _SPAWN[request["spawn"]](connection)
                workers[pid] = others
                _send(control, {"pid": pid})
            elif request["kill"] in workers:
                ended = _end(request["kill"], request["grace"])
                for pid in workers.pop(request["kill"]):
                    _end(pid, grace_seconds=0)
                _send(control, {"ended": ended})
            else:
                _send(control, {"ended": "unknown"})
    finally:
        for pid, others in workers.items():
            for each in (pid, *others):
                _end(each, grace_seconds=0)


def _grader(connection: socket.socket) -> tuple[int, ...]:
    return (_fork(worker.serve, connection),)


def _tests(connection: socket.socket) -> tuple[int, ...]:
    """The tests' process, and the one for the code that they test."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        return _fork(testing.serve, connection, one), _fork(solution.serve, other, limits=solution.LIMITS)


_SPAWN: dict[str, Callable[[socket.socket], tuple[int, ...]]] = {"grader": _grader, "tests": _tests}


def _fork(serve: Callable[..., None], *connections: socket.socket, limits: Mapping[int, int] = worker.LIMITS) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            worker.run(serve, *connections, limits=limits)
        finally:
            os._exit(1)
    return pid


def _end(pid: int, grace_seconds: float) -> str:
    """Kill a worker, unless it ends by itself within the grace; says how it ended."""
    deadline = time.monotonic() + grace_seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done or time.monotonic() >= deadline:
            break
        time.sleep(0.002)
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "killed"
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.WEXITSTATUS(status)}"


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())

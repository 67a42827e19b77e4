"""The fork server: a small, single-threaded Python process, without torch, that forks and reaps workers.

Started as `python -I -c …` by pool.py with one SOCK_SEQPACKET socket; it ends when that socket does.
"""

import gc
import json
import os
import signal
import socket
import time
from typing import Any

from . import worker

MESSAGE_BYTES = 4096


def main(descriptor: int) -> None:
    """Serve `spawn` and `kill` until the other side is gone, then take every worker along."""
    control = socket.socket(fileno=descriptor)
    workers: set[int] = set()
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
                workers.add(_spawn(control, descriptors[0]))
                os.close(descriptors[0])
            elif request["kill"] in workers:
                workers.discard(request["kill"])
                _send(control, {"ended": _end(request["kill"], request["grace"])})
            else:
                _send(control, {"ended": "unknown"})
    finally:
        for pid in workers:
            _end(pid, grace_seconds=0)


def _spawn(control: socket.socket, descriptor: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            control.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            worker.run(socket.socket(fileno=descriptor))
        finally:
            os._exit(1)
    _send(control, {"pid": pid})
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

"""One worker of a Python grader: fences itself in, loads the function, answers calls. Runs in a forked child."""

import contextlib
import ctypes
import hashlib
import importlib
import inspect
import math
import os
import resource
import signal
import socket
import sys
import types
from collections.abc import Callable
from typing import Any

from . import frames, seccomp

_PR_SET_PDEATHSIG = 1
_GIB = 1024**3
LIMITS = {
    resource.RLIMIT_DATA: 2 * _GIB,
    # Address space counts file mappings and reservations too, hence the distance.
    resource.RLIMIT_AS: 32 * _GIB,
    resource.RLIMIT_FSIZE: 16 * 1024**2,
    resource.RLIMIT_NOFILE: 128,
    resource.RLIMIT_CORE: 0,
}
_ERROR_CHARACTERS = 2_000


def run(connection: socket.socket) -> None:
    """Serve one connection until its end. Never returns to the server's code."""
    status = 1
    try:
        _fence(connection)
        _serve(connection)
        status = 0
    finally:
        os._exit(status)


def _fence(connection: socket.socket) -> None:
    os.setsid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, 65_536)
    for what, limit in LIMITS.items():
        hard = resource.getrlimit(what)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (bound, bound))
    # Where memory runs out all the same, the kernel takes the grader, not the trainer.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    seccomp.install()


def _serve(connection: socket.socket) -> None:
    buffer = bytearray()
    request = frames.receive(connection, buffer, frames.REQUEST_BYTES)
    if request is None:
        return
    try:
        function, digest = _load(request)
    except BaseException as error:
        _reply(connection, {"error": _describe(error)})
        return
    _reply(connection, {"digest": digest})
    while (request := frames.receive(connection, buffer, frames.REQUEST_BYTES)) is not None:
        try:
            answer: dict[str, Any] = {"score": _score(function(request["prompt"], request["response"], request["row"]))}
        except BaseException as error:
            answer = {"error": _describe(error)}
        _reply(connection, answer)


def _reply(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(frames.encode(message, frames.REPLY_BYTES))


def _load(request: dict[str, Any]) -> tuple[Callable[..., Any], str]:
    """The function and the digest of its source: a file's text that was sent along, or a module of the image."""
    name = request["function"]
    if request.get("source") is not None:
        source = request["source"]
        module = types.ModuleType("grader")
        sys.modules["grader"] = module
        exec(compile(source, request["file"], "exec"), module.__dict__)  # noqa: S102 - running it is the purpose
        code = source.encode()
    else:
        module = importlib.import_module(request["module"])
        path = inspect.getsourcefile(module)
        if path is None:
            code = b""
        else:
            with open(path, "rb") as file:
                code = file.read()
    function = getattr(module, name, None)
    if not callable(function):
        raise TypeError(f"{request['file']} has no function {name}")
    return function, "sha256:" + hashlib.sha256(code).hexdigest()


def _score(value: Any) -> float | None:
    if value is None:
        return None
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"returned a {type(value).__name__}, not a number or None") from None
    if isinstance(value, str | bytes) or not math.isfinite(score):
        raise ValueError(f"returned {str(value)[:40]!r}, not a finite number or None")
    return score


def _describe(error: BaseException) -> str:
    """Type, message, and the grader's own line."""
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            line = f" (line {trace.tb_lineno} of {os.path.basename(trace.tb_frame.f_code.co_filename)})"
        trace = trace.tb_next
    try:
        text = str(error)
    except BaseException:
        text = "?"
    return f"{type(error).__name__}: {text}{line}"[:_ERROR_CHARACTERS]

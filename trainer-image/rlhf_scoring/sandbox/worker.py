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
from collections.abc import Callable, Mapping, Sequence
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


def run(serve: Callable[..., None], *connections: socket.socket, limits: Mapping[int, int] = LIMITS) -> None:
    """Serve these connections, the only ones that stay open, until their end. Never returns to the server's code."""
    status = 1
    try:
        _fence([connection.fileno() for connection in connections], limits)
        serve(*connections)
        status = 0
    finally:
        os._exit(status)


def _fence(kept: Sequence[int], limits: Mapping[int, int]) -> None:
    os.setsid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 65_536)
    for what, limit in limits.items():
        hard = resource.getrlimit(what)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (bound, bound))
    # Where memory runs out all the same, the kernel takes the grader, not the trainer.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    seccomp.install()


def serve(connection: socket.socket) -> None:
    """Load one function, then answer calls of it."""
    buffer = bytearray()
    request = frames.receive(connection, buffer, frames.REQUEST_BYTES)
    if request is None:
        return
    try:
        function, digest = _load(request)
    except BaseException as error:
        reply(connection, {"error": describe(error)})
        return
    reply(connection, {"digest": digest})
    while (request := frames.receive(connection, buffer, frames.REQUEST_BYTES)) is not None:
        try:
            answer: dict[str, Any] = {"score": _score(function(request["prompt"], request["response"], request["row"]))}
        except BaseException as error:
            answer = {"error": describe(error)}
        reply(connection, answer)


def reply(connection: socket.socket, message: dict[str, Any]) -> None:
    """Answer the pool."""
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


def describe(error: BaseException) -> str:
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

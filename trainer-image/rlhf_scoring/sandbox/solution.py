"""The process that runs a response's code. It is given calls, one at a time, and never sees a test."""

import os
import resource
import socket
import sys
import sysconfig
import types
from typing import Any

from . import worker
from .link import CODE_OPERATIONS, Link, LinkError

LIMITS = {**worker.LIMITS, resource.RLIMIT_FSIZE: 0}
MODULE = "solution"
_REFUSED = (
    "ctypes.",
    "os.chdir",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "shutil.",
)
_READS = frozenset({"open", "os.listdir", "os.scandir"})
_READABLE = ("/dev/null", "/dev/urandom", "/usr/share/zoneinfo")


def serve(connection: socket.socket) -> None:
    """Run code and answer calls of what it defines, until the tests are done with it."""
    sys.addaudithook(_Audit())
    try:
        Link(connection, {**CODE_OPERATIONS, "load": _load}).serve()
    except LinkError:
        return


def _load(source: str) -> dict[str, Any]:
    """Run the code; returns what it defines. Modules that it imports are not its own."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    exec(compile(source, f"{MODULE}.py", "exec"), module.__dict__)  # noqa: S102 - running it is the purpose
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("__") and not isinstance(value, types.ModuleType)
    }


class _Audit:
    """Refuses files but those of Python itself: data sets and tokens lie on this disk, hidden tests among them."""

    def __init__(self) -> None:
        paths = [*sys.path, *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, *_READABLE]
        self._roots = tuple(os.path.realpath(path) for path in paths if path)
        self._real = os.path.realpath

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"code under test may not use {event}")
        if event not in _READS or isinstance(arguments[0], int):
            return
        path = self._real(os.fsdecode(arguments[0] or "."))
        if not any(path == root or path.startswith(root + os.sep) for root in self._roots):
            raise PermissionError(f"code under test may not read {path}")

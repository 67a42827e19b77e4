"""The process that runs a row's hidden tests; the code that they test runs in another one, behind link.py."""

import ast
import builtins
import ctypes
import socket
import sys
import types
import unittest
from typing import Any

from . import frames
from .link import TEST_OPERATIONS, Link
from .solution import MODULE
from .worker import describe, reply

PASSED, FAILED = 1.0, -1.0
_PR_SET_DUMPABLE = 4
_COUNT = "__checked__"


class TestsBroken(Exception):
    """The tests can't judge any code."""


def serve(connection: socket.socket, code: socket.socket) -> None:
    """Answer one call: a response's code, and the tests that it must pass."""
    # Processes of one user may read each other's memory, unless they ask not to be read.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    buffer = bytearray()
    if frames.receive(connection, buffer, frames.REQUEST_BYTES) is None:
        return
    reply(connection, {"digest": ""})
    request = frames.receive(connection, buffer, frames.REQUEST_BYTES)
    if request is None:
        return
    try:
        answer: dict[str, Any] = {"score": _score(request["code"], request["tests"], code)}
    except TestsBroken as error:
        answer = {"error": str(error)}
    reply(connection, answer)


def _score(code: str, tests: str, connection: socket.socket) -> float:
    """1 when every test passes, -1 when one does not, or the code can't be run. Raises TestsBroken."""
    try:
        compiled = _counting(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestsBroken(f"the tests are no Python: {describe(error)}") from error
    try:
        defined = Link(connection, TEST_OPERATIONS).ask("load", code)
        if not isinstance(defined, dict):
            return FAILED
        checked = _run(compiled, {name: value for name, value in defined.items() if _may_define(name)})
    except BaseException:
        return FAILED
    if not checked:
        raise TestsBroken(
            "the tests check nothing: no assert ran, and there is no test_ function and no unittest.TestCase; "
            "tests that are wrapped in a function must be called"
        )
    return PASSED


def _may_define(name: object) -> bool:
    """Whether code may bring a name into the tests: never one that they have without it."""
    return isinstance(name, str) and not name.startswith("__") and not hasattr(builtins, name)


def _run(compiled: types.CodeType, defined: dict[str, Any]) -> int:
    """Run everything; returns the number of checks that passed. Raises what a failed one raises."""
    checked = 0

    def count() -> None:
        nonlocal checked
        checked += 1

    stand_in = types.ModuleType(MODULE)
    vars(stand_in).update(defined)
    sys.modules[MODULE] = stand_in
    namespace: dict[str, Any] = {**defined, "__name__": "tests", _COUNT: count}
    exec(compiled, namespace)  # noqa: S102 - the tests are the user's own
    for name, value in list(namespace.items()):
        if isinstance(value, types.FunctionType) and name.startswith("test"):
            value()
            count()
        elif isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == "tests":
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(value).run(result)
            if not result.wasSuccessful():
                raise AssertionError(f"{len(result.failures)} failures, {len(result.errors)} errors")
            checked += result.testsRun - len(result.skipped)
    return checked


def _counting(tests: str) -> types.CodeType:
    """The tests, with every assert that holds counted: tests that assert nothing must not pass all code."""
    tree = ast.fix_missing_locations(_CountAsserts().visit(ast.parse(tests, "tests.py")))
    return compile(tree, "tests.py", "exec", dont_inherit=True, optimize=0)


class _CountAsserts(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        call = ast.Call(ast.Name(_COUNT, ast.Load()), [], [])
        return [node, ast.copy_location(ast.Expr(call), node)]

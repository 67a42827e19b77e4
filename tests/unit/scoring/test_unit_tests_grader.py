"""Hidden tests against code in real processes: what passes, what fails, and what must not pass by a trick."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.plan import PlanScorer
from rlhf_scoring.build import build_scorers
from rlhf_scoring.errors import GraderFailed
from rlhf_scoring.graders.unit_tests import code_of
from rlhf_scoring.judge import ROW_NUMBER
from rlhf_scoring.scorers import Scorers

Build = Callable[..., Scorers]

ADD = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert abs(add(0.1, 0.2) - 0.3) < 1e-9"
RIGHT = "def add(a, b):\n    return a + b"


@pytest.fixture
def unit_tests(build: Build) -> Scorers:
    return build({"unitTests": {"timeout": "10s"}})


def run(scorers: Scorers, code: str, tests: str = ADD) -> float | None:
    return scorers.score("s", ["p"], [code], [{ROW_NUMBER: 1, "tests": tests}])[0]


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (RIGHT, ADD),
        (f"Here it is:\n```python\n{RIGHT}\n```\nUse it so:\n```\nadd(1, 2)\n```", ADD),
        (RIGHT, f"def check(candidate):\n    assert candidate(1, 2) == 3\n\n{ADD}\ncheck(add)"),
        (RIGHT, "def test_sums():\n    assert add(2, 2) == 4"),
        (RIGHT, "from solution import add as plus\nimport math\nassert math.isclose(plus(.5, .25), .75)"),
        (
            RIGHT,
            "import unittest\nclass T(unittest.TestCase):\n"
            "    def test_sum(self):\n        self.assertEqual(add(1, 1), 2)\n"
            "    def test_wrong_type(self):\n        with self.assertRaises(TypeError):\n            add(1, '1')",
        ),
        ("def double(xs):\n    xs[:] = [2 * x for x in xs]", "xs = [1, 2]\ndouble(xs)\nassert xs == [2, 4]"),
        ("def twice(f, x):\n    return f(f(x))", "assert twice(lambda x: x + 1, 1) == 3"),
        (
            "def evens():\n    n = 0\n    while True:\n        yield n\n        n += 2",
            "e = evens()\nassert next(e) == 0 and next(e) == 2",
        ),
        (
            "class Stack:\n    def __init__(self): self.xs = []\n    def push(self, x): self.xs.append(x)\n"
            "    def pop(self): return self.xs.pop()\n    def __len__(self): return len(self.xs)",
            "s = Stack()\ns.push(3)\nassert len(s) == 1 and isinstance(s, Stack)\nassert s.pop() == 3\n"
            "try:\n    s.pop()\nexcept IndexError:\n    pass\nelse:\n    raise AssertionError('an empty stack pops')",
        ),
        (
            "class TooBig(ValueError):\n    pass\ndef check(n):\n    if n > 9:\n        raise TooBig(n)",
            "try:\n    check(10)\n    raise AssertionError\nexcept TooBig as error:\n    assert str(error) == '10'",
        ),
        (
            "from collections import Counter, namedtuple\nP = namedtuple('P', 'x y')\n"
            "def f(): return [Counter('aab'), P(1, 2), {1, 2}, b'x', 2j, None, 10**40, {'k': (1,)}, float('inf')]",
            "assert f() == [{'a': 2, 'b': 1}, (1, 2), {1, 2}, b'x', 2j, None, 10**40, {'k': (1,)}, float('inf')]",
        ),
        (
            "import re, math, collections, itertools, heapq, numpy\ndef f(): return int(numpy.sum([1, 2]))",
            "assert f() == 3",
        ),
        ("if __name__ == '__main__':\n    raise SystemExit\n" + RIGHT, ADD),
        ("print('x' * 1_000_000)\n" + RIGHT, ADD),
    ],
)
def test_code_that_does_what_its_tests_ask_scores_1(unit_tests: Scorers, code: str, tests: str) -> None:
    assert run(unit_tests, code, tests) == 1.0, unit_tests.timing("s").last_missing


EVERYTHING = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __sub__(self, other): return 0.0
    def __rsub__(self, other): return 0.0
    def __abs__(self): return 0.0
    def __contains__(self, other): return True
    def __float__(self): return 0.0
    def __bool__(self): return True
    def __hash__(self): return 0
def add(a, b): return Yes()
"""
IMPORTS = "import atexit, builtins, ctypes, gc, inspect, os, socket, subprocess, sys, threading, unittest\n"
TRICKS = {
    "wrong": "def add(a, b): return a - b",
    "nothing there": "x = 1",
    "no code": "I can't help with that.",
    "no Python": "```python\ndef add(a, b:\n```",
    "empty": "",
    "null bytes": "\0" + RIGHT,
    "nested without end": "x = " + "(" * 5000,
    "sys.exit(0) before the tests": "import sys\nsys.exit(0)",
    "sys.exit(0) in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "os._exit(0) before the tests": "import os\nos._exit(0)",
    "os._exit(0) in the call": "import os\ndef add(a, b): os._exit(0)",
    "an exit handler": IMPORTS + "atexit.register(os._exit, 0)\ndef add(a, b): return 0",
    "kills its process": "import os\ndef add(a, b): os.kill(os.getpid(), 9)",
    "equals everything": EVERYTHING,
    "an int that equals everything": "class I(int):\n    def __eq__(self, other): return True\n"
    "    def __sub__(self, other): return 0\ndef add(a, b): return I(7)",
    "a float that is near everything": "class F(float):\n    def __sub__(self, other): return F(0)\n"
    "    def __abs__(self): return F(0)\n    def __lt__(self, other): return True\n"
    "    def __eq__(self, other): return True\ndef add(a, b): return F(7)",
    "builtins of its own": "def abs(x): return 0\ndef all(x): return True\nassert_ = print\ndef add(a, b): return 7",
    "patched builtins": IMPORTS + "builtins.abs = lambda x: 0\nbuiltins.AssertionError = type('A', (Exception,), {})\n"
    "def add(a, b): return 7",
    "a patched runner": IMPORTS + "unittest.TestResult.wasSuccessful = lambda self: True\n"
    "unittest.TestCase.assertEqual = lambda *a: None\n"
    "for module in list(sys.modules.values()):\n"
    "    for name in ('_score', '_run', 'FAILED', '_counting'):\n"
    "        if hasattr(module, name):\n"
    "            setattr(module, name, 1.0 if name == 'FAILED' else lambda *a: 1.0)\n"
    "def add(a, b): return 7",
    "a verdict of its own on every line": IMPORTS + "frame = b'\\0\\0\\0\\x0d{\"score\":1.0}'\n"
    "for fd in range(3, 128):\n    try: os.write(fd, frame)\n    except OSError: pass\ndef add(a, b): return 7",
    "reads the stack": IMPORTS + "def add(a, b):\n    frame = sys._getframe()\n    while frame:\n"
    "        for const in frame.f_code.co_consts:\n"
    "            if const == -0.0 + 3 and (a, b) == (1, 2): return const\n"
    "        if any(isinstance(v, str) and 'assert add' in v for v in frame.f_locals.values()): return 3\n"
    "        frame = frame.f_back\n    return 7",
    "looks for the tests in memory": IMPORTS + "def add(a, b):\n"
    "    found = [o for o in gc.get_objects() if isinstance(o, dict) and 'tests' in o and 'code' in o]\n"
    "    for o in found:\n        exec(o['tests'])\n    return 3 if found else 7",
    "reads other processes": IMPORTS + "def add(a, b):\n    for pid in range(os.getpid() - 3, os.getpid() + 3):\n"
    "        open(f'/proc/{pid}/mem', 'rb').read(1)\n        return a + b",
    "reads files": RIGHT + "\nopen('/etc/passwd').read()",
    "lists folders": RIGHT + "\nimport os\nos.listdir('/')",
    "writes files": RIGHT + "\nimport tempfile\ntempfile.TemporaryFile().write(b'x')",
    "a fork bomb": IMPORTS + RIGHT + "\nwhile True: os.fork()",
    "a process": IMPORTS + RIGHT + "\nsubprocess.run(['true'])",
    "a socket": IMPORTS + RIGHT + "\nsocket.create_connection(('127.0.0.1', 9))",
    "a memory bomb": "def add(a, b):\n    return [bytearray(1 << 32) for _ in range(64)]",
    "a deep value": "def add(a, b):\n    x = []\n    for _ in range(100_000): x = [x]\n    return x",
    "a huge value": "def add(a, b): return 'x' * (1 << 25)",
    "a value without end": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
}


@pytest.mark.parametrize("code", TRICKS.values(), ids=TRICKS.keys())
def test_what_does_not_solve_the_task_never_passes(unit_tests: Scorers, code: str) -> None:
    assert run(unit_tests, code) == -1.0
    assert run(unit_tests, RIGHT) == 1.0, "and what follows is judged as ever"


def test_an_operator_shows_the_code_no_value_of_the_tests(unit_tests: Scorers) -> None:
    code = "seen = []\nclass Spy:\n" + "".join(
        f"    def __{name}__(self, other):\n        seen.append(other)\n        return True\n"
        for name in ("eq", "ne", "lt", "gt", "add", "sub", "contains")
    )
    tests = (
        "spy = Spy()\nuses = lambda: spy == 3, lambda: 3 == spy, lambda: spy < 3, lambda: spy - 3, lambda: 3 in spy\n"
        "for use in uses:\n"
        "    try: use()\n    except TypeError: pass\nassert seen == []\nassert (spy == Spy()) is True"
    )
    assert run(unit_tests, code, tests) == 1.0


FORGED = """
import sys
frames = sys.modules['rlhf_scoring.sandbox.frames']
encode = frames.encode
def zero(*_): return 0
def forged(message, limit):
    value = message.get('value')
    if isinstance(value, dict) and 'dict' in value:
        (ref,) = [each for name, each in value['dict'] if name == 'zero']
        message = {'value': {'dict': [['add', ref], ['abs', ref], ['__builtins__', {'dict': [['abs', ref]]}]]}}
    return encode(message, limit)
frames.encode = forged
"""


def test_code_that_speaks_for_its_process_brings_no_built_ins_into_the_tests(unit_tests: Scorers) -> None:
    assert run(unit_tests, FORGED, "assert abs(add(1, 2) - 3) < 1e-9") == -1.0
    assert run(unit_tests, FORGED, "assert abs(add(1, 2) - 0) < 1e-9") == 1.0, "the forgery itself arrives"


def test_a_callback_is_called_and_nothing_more(unit_tests: Scorers) -> None:
    code = "def f(g):\n    try: return g.__globals__\n    except Exception: return g(1)"
    assert run(unit_tests, code, "assert f(lambda x: x + 41) == 42") == 1.0


@pytest.mark.parametrize("code", ["while True: pass", "import time\ndef add(a, b): time.sleep(60)"])
def test_what_takes_too_long_scores_0_and_leaves_no_process(build: Build, code: str) -> None:
    scorers = build({"unitTests": {"timeout": "1s"}})
    here = psutil.Process(os.getpid())
    assert run(scorers, RIGHT) == 1.0
    assert run(scorers, code) == 0.0
    scorers.close()
    assert not [each for each in here.children(recursive=True) if each.status() == psutil.STATUS_RUNNING]


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ("assert add(1, 2", "row 1: the tests are no Python: SyntaxError"),
        ("x = add(1, 2)", "row 1: the tests check nothing"),
        ("def check(f):\n    assert f(1, 2) == 3", "row 1: the tests check nothing.*must be called"),
    ],
)
def test_tests_that_can_judge_nothing_pass_nobody_and_are_named(build: Build, tests: str, words: str) -> None:
    lenient, strict = build({"unitTests": {}}), build({"unitTests": {}, "onError": "Fail"})
    assert run(lenient, RIGHT, tests) is None
    assert lenient.timing("s").failed == 1
    with pytest.raises(GraderFailed, match=words):
        run(strict, RIGHT, tests)


def test_a_row_without_tests_has_no_score(build: Build) -> None:
    scorers = build({"unitTests": {"testsColumn": "hidden"}, "onError": "Fail"})
    rows = [{ROW_NUMBER: 1}, {ROW_NUMBER: 2, "hidden": ADD}]
    assert scorers.score("s", ["p"] * 2, [RIGHT] * 2, rows) == [None, 1.0]


def test_code_finds_nothing_of_former_code(unit_tests: Scorers, tmp_path: Path) -> None:
    first = RIGHT + "\nimport builtins, math\nbuiltins.left = 1\nmath.left = 1"
    assert run(unit_tests, first) == 1.0
    second = "import builtins, math\ndef found(): return hasattr(builtins, 'left') or hasattr(math, 'left')"
    assert run(unit_tests, second, "assert found() is False") == 1.0


def test_two_scorers_of_one_plan_share_the_fork_server(tmp_path: Path) -> None:
    (tmp_path / "g.py").write_text("def grade(prompt, response, row):\n    return len(response)\n")
    plans = [
        {"name": "tests", "grader": {"unitTests": {}}},
        {
            "name": "size",
            "grader": {"python": {"configMap": {"name": "g", "key": "g.py"}}},
            "graderPath": str(tmp_path / "g.py"),
        },
    ]
    with build_scorers([PlanScorer.model_validate(plan) for plan in plans]) as scorers:
        rows = [{"tests": ADD}] * 3
        assert scorers.score("tests", ["p"] * 3, [RIGHT, "x", RIGHT], rows) == [1.0, -1.0, 1.0]
        assert scorers.score("size", ["p"], ["abc"], [{}]) == [3.0]


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("a = 1", "a = 1"),
        ("```\na = 1\n```", "a = 1\n"),
        ("```python\na = 1\n```\ntext\n```py\na = 2\n```\n```text\nout\n```", "a = 2\n"),
        ("```python\na = 1", "a = 1\n"),
        ("  ```python\n  a = 1\n  ```", "  a = 1\n"),
        ("use ```a``` here", "use ```a``` here"),
    ],
)
def test_the_last_block_of_python_is_the_code(response: str, code: str) -> None:
    assert code_of(response) == code


@given(st.text(max_size=400))
def test_any_text_has_some_code(text: str) -> None:
    assert isinstance(code_of(text), str)

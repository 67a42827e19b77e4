import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rlhf_operator.api.plan import PlanScorer
from rlhf_scoring.build import build_scorers
from rlhf_scoring.errors import GraderFailed, SandboxError, ScorerConfigError
from rlhf_scoring.judge import ROW_NUMBER
from rlhf_scoring.sandbox import pool
from rlhf_scoring.scorers import Scorers

Make = Callable[..., Scorers]
GRADE = "def grade(prompt, response, row):\n    "


def ask(scorers: Scorers, *responses: str) -> list[float | None]:
    rows = [{ROW_NUMBER: at + 1, "gold": "x"} for at in range(len(responses))]
    return scorers.score("s", ["p"] * len(responses), list(responses), rows)


def test_scores_come_back_in_order_whatever_each_takes(python_grader: Make) -> None:
    scorers = python_grader(f"import time\n{GRADE}time.sleep(float(response)); return float(response)")
    assert ask(scorers, "0.2", "0.0", "0.1", "0.05") == [0.2, 0.0, 0.1, 0.05]


def test_the_function_sees_prompt_response_and_row(python_grader: Make) -> None:
    scorers = python_grader(f"{GRADE}return (prompt, response, row['gold'], row['{ROW_NUMBER}']) == ('p', 'r', 'x', 1)")
    assert ask(scorers, "r") == [1.0]


def test_none_is_a_missing_score_not_zero(python_grader: Make) -> None:
    assert ask(python_grader(f"{GRADE}return None if response == 'a' else 0"), "a", "b") == [None, 0.0]


def test_a_raising_grader_is_named_with_row_reason_and_line(python_grader: Make) -> None:
    scorers = python_grader(f"{GRADE}return row['gold'].index(response)", on_error="Fail")
    with pytest.raises(GraderFailed, match=r"scorer s failed on row 2: ValueError: .*line 2 of grader\.py"):
        ask(scorers, "x", "y")
    assert ask(scorers, "x") == [0.0]


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'1'", "b'1'", "[1]", "object()"])
def test_what_is_no_score_is_an_error(python_grader: Make, value: str) -> None:
    with pytest.raises(GraderFailed, match="returned"):
        ask(python_grader(f"{GRADE}return {value}", on_error="Fail"), "r")


def test_by_default_a_raising_grader_costs_the_score_of_its_row_alone(python_grader: Make) -> None:
    scorers = python_grader(f"{GRADE}return row['gold'].index(response)")
    assert ask(scorers, "x", "y", "x") == [0.0, None, 0.0]
    timing = scorers.timing("s")
    assert (timing.texts, timing.missing, timing.failed) == (3, 1, 1)
    assert "row 2: ValueError" in timing.last_missing


@pytest.mark.parametrize(
    ("body", "words"), [("time.sleep(60)", "row 1: no answer within 1 s"), ("os._exit(3)", "row 1: .*exit code 3")]
)
def test_a_time_out_or_a_death_ends_the_run_where_the_plan_says_so(python_grader: Make, body: str, words: str) -> None:
    scorers = python_grader(f"import os, time\n{GRADE}{body}", timeout="1s", on_error="Fail")
    with pytest.raises(GraderFailed, match=words):
        ask(scorers, "r")


def test_nothing_to_say_is_no_error(python_grader: Make) -> None:
    assert ask(python_grader(f"{GRADE}return None", on_error="Fail"), "r") == [None]


@pytest.mark.parametrize("body", ["while True: pass", "__import__('time').sleep(60)"])
def test_a_call_that_takes_too_long_is_cut_and_its_worker_replaced(python_grader: Make, body: str) -> None:
    scorers = python_grader(f"{GRADE}\n    if response == 'slow':\n        {body}\n    return 1", timeout="1s")
    started = time.monotonic()
    assert ask(scorers, "a", "slow", "b", "c") == [1.0, None, 1.0, 1.0]
    assert time.monotonic() - started < 5
    assert scorers.timing("s").timeouts == 1
    assert ask(scorers, "d") == [1.0]


@pytest.mark.parametrize(
    ("body", "how"),
    [("os._exit(3)", "exit code 3"), ("ctypes.string_at(0)", "SIGSEGV"), ("os.abort()", "SIGABRT")],
)
def test_a_worker_that_dies_costs_one_score(python_grader: Make, body: str, how: str) -> None:
    scorers = python_grader(f"import ctypes, os\n{GRADE}\n    if response == 'die':\n        {body}\n    return 1")
    assert ask(scorers, "a", "die", "b") == [1.0, None, 1.0]
    assert how in scorers.timing("s").last_missing


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("os.fork()", "PermissionError"),
        ("subprocess.run(['true'])", "PermissionError"),
        ("socket.socket()", "PermissionError"),
        ("socket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("socket.socketpair(socket.AF_INET)", "Error"),
        ("os.kill(os.getppid(), 9)", "PermissionError"),
        ("os.killpg(os.getpgid(os.getppid()), 9)", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("bytearray(4 << 30)", "MemoryError"),
        ("open(row['file'], 'wb').write(b'x' * (32 << 20))", "OSError: .*File too large"),
        ("[open('/dev/null') for _ in range(1000)]", "Too many open files"),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))", "Error"),
    ],
)
def test_what_a_grader_has_no_business_with_is_refused(
    python_grader: Make, tmp_path: Path, body: str, error: str
) -> None:
    scorers = python_grader(f"import os, resource, socket, subprocess\n{GRADE}{body}", on_error="Fail")
    with pytest.raises(GraderFailed, match=error):
        scorers.score("s", ["p"], ["r"], [{ROW_NUMBER: 1, "file": str(tmp_path / "big")}])


@pytest.mark.parametrize(
    "body",
    [
        "print('x' * 1_000_000); return 1",
        "sys.stderr.write('x' * 1_000_000); return 1",
        "socket.socket(socket.AF_UNIX).close(); return 1",
        "t = threading.Thread(target=print); t.start(); t.join(); return 1",
        "return len(os.environ) < 10 and 'RLHF_SECRET' not in os.environ",
        "return sys.modules.get('torch') is None and sys.modules.get('pydantic') is None",
        "return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)",
        "return len(os.listdir('/proc/self/fd')) <= 5",
        "return open('/proc/self/oom_score_adj').read().strip() == '1000'",
    ],
)
def test_ordinary_things_work_and_nothing_of_ours_is_seen(
    python_grader: Make, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    monkeypatch.setenv("RLHF_SECRET", "token")
    scorers = python_grader(f"import os, resource, socket, sys, threading\n{GRADE}{body}")
    assert ask(scorers, "r") == [1.0]


def test_a_set_has_the_same_order_in_every_worker(python_grader: Make) -> None:
    source = f"{GRADE}return float(hash('text') % 1_000_003)"
    assert ask(python_grader(source), "r") == ask(python_grader(source), "r")


def test_large_rows_pass_through(python_grader: Make) -> None:
    assert ask(python_grader(f"{GRADE}return len(response)"), "x" * (10 << 20)) == [10 << 20]


@pytest.mark.parametrize(
    "data", ["b'garbage'", "b'\\xff' * 8", "b'\\0\\0\\0\\2[]'", "b'\\0\\0\\0\\x0d{\"score\":9.5}'"]
)
def test_a_grader_that_writes_on_our_line_gets_no_score_and_harms_no_other(python_grader: Make, data: str) -> None:
    body = f"""
import os
def grade(prompt, response, row):
    if response == "write":
        for number in range(3, 64):
            try:
                os.write(number, {data})
            except OSError:
                pass
    return 1
"""
    scorers = python_grader(body, timeout="2s")
    found = ask(scorers, "a", "write", "b", "c")
    assert found[1] in {None, 9.5}, "what it says of its own row is its own affair"
    assert [found[0], found[2], found[3]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("def other(): pass", "has no function grade"),
        ("grade = 3", "has no function grade"),
        ("def grade(:", "SyntaxError"),
        ("import os; os._exit(1)", "exit code 1"),
        ("import socket; socket.socket()", "PermissionError"),
        ("raise SystemExit(2)", "SystemExit"),
    ],
)
def test_a_grader_that_cannot_be_loaded_is_a_config_error(python_grader: Make, source: str, words: str) -> None:
    with pytest.raises(ScorerConfigError, match=rf"(?s)scorer s: the grader grader\.py can't be loaded: .*{words}"):
        python_grader(source)


def test_a_slow_import_is_no_word_on_the_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    load = {"source": "import time\ntime.sleep(60)", "function": "grade", "file": "grader.py"}
    with pool.ForkServer() as server:
        monkeypatch.setattr(pool, "LOAD_SECONDS", 0.1)
        with pytest.raises(SandboxError, match="importing a grader's module took longer"):
            pool.Pool(server, load, workers=1, timeout_seconds=1)


def test_an_entry_point_is_imported_from_the_image(build: Callable[..., Scorers]) -> None:
    scorers = build({"python": {"entryPoint": "operator:countOf"}, "onError": "Fail"})
    with pytest.raises(GraderFailed, match="countOf"):
        ask(scorers, "r")


def test_the_digest_follows_the_code(python_grader: Make) -> None:
    first, again = python_grader(f"{GRADE}return 1"), python_grader(f"{GRADE}return 1")
    other = python_grader(f"{GRADE}return 2")
    assert first.digest("s") == again.digest("s") != other.digest("s")


def test_a_configmap_that_changed_since_the_plan_is_refused(python_grader: Make) -> None:
    with pytest.raises(ScorerConfigError, match="the ConfigMap has changed since"):
        python_grader(f"{GRADE}return 1", graderDigest="sha256:" + "0" * 64)


def test_a_grader_without_its_file_is_a_config_error(tmp_path: Path) -> None:
    grader = {"python": {"configMap": {"name": "g", "key": "g.py"}}}
    missing = PlanScorer.model_validate({"name": "s", "grader": grader, "graderPath": str(tmp_path / "g.py")})
    with pytest.raises(ScorerConfigError, match="can't be read"):
        build_scorers([missing])


def test_closing_leaves_no_process_behind(tmp_path: Path) -> None:
    path = tmp_path / "g.py"
    path.write_text(f"{GRADE}return 1")
    grader = {"python": {"configMap": {"name": "g", "key": "g.py"}}}
    plan = PlanScorer.model_validate({"name": "s", "grader": grader, "graderPath": str(path)})
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    with build_scorers([plan]) as scorers:
        assert ask(scorers, *"abcdef") == [1.0] * 6
        started = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)} - before
        assert len(started) >= 2
    deadline = time.monotonic() + 10
    while left := [pid for pid in started if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_nothing_outlives_a_trainer_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "g.py"
    path.write_text(f"import time\n{GRADE}time.sleep(600)")
    program = (
        "import sys\n"
        "from rlhf_operator.api.plan import PlanScorer\n"
        "from rlhf_scoring.build import build_scorers\n"
        "grader = {'python': {'configMap': {'name': 'g', 'key': 'g.py'}, 'timeout': '10m'}}\n"
        "plan = PlanScorer.model_validate({'name': 's', 'grader': grader, 'graderPath': sys.argv[1]})\n"
        "scorers = build_scorers([plan])\n"
        "print('built', flush=True)\n"
        "scorers.score('s', ['p'] * 4, ['r'] * 4, [{}] * 4)\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    with trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "built\n"
        deadline = time.monotonic() + 20
        while len(below := psutil.Process(trainer.pid).children(recursive=True)) < 3:
            assert time.monotonic() < deadline, f"a server and two workers, not {below}"
        trainer.kill()
        trainer.wait()
        while left := [each for each in below if runs(each)]:
            assert time.monotonic() < deadline, f"still there: {left}"

"""The judge as a process: what it refuses to start with, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from judgekit.local import settings
from judgekit.process import JudgeProcess
from judgekit.versions import Version, seal
from rlhf_operator.api.scorerfile import ScorerFile
from rlhf_server.judge.errors import ConfigError
from rlhf_server.judge.serve import load

SLOW = """
import time

def grade(prompt, response, row):
    time.sleep(float(response))
    return 1.0
"""


def test_what_it_can_not_start_with_is_said_and_ends_it_with_2(version: Version) -> None:
    command = [sys.executable, "-m", "rlhf_server.judge", "--scorer", str(version.directory), "--version", "latest"]
    env = {**os.environ, "RLHF_JUDGE_PORT": "eighty", "RLHF_JUDGE_QUEUE_DEPTH": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 2, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(line["level"] == "ERROR" for line in lines)
    said = " ".join(line["message"] for line in lines)
    for name in ("version", "port", "queue_depth"):
        assert f"setting {name}: " in said


@pytest.fixture
def copy(version: Version, tmp_path: Path) -> Path:
    return Path(shutil.copytree(version.directory, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "probes.jsonl").write_text("{}"), "probes.jsonl is changed"),
        (lambda folder: (folder / "scorer.json").unlink(), "scorer.json is missing"),
        (lambda folder: (folder / "more.py").write_text("x"), "more.py is not in the manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json can't be read"),
    ],
)
def test_files_that_are_not_the_version_are_refused(
    copy: Path, version: Version, spoil: Callable[[Path], Any], says: str
) -> None:
    spoil(copy)
    with pytest.raises(ConfigError, match=says):
        load(settings(Version(copy, version.digest)))


def test_another_version_than_the_one_asked_for_is_refused_and_both_are_named(version: Version) -> None:
    other = "sha256:" + "3" * 64
    with pytest.raises(ConfigError) as refused:
        load(settings(Version(version.directory, other)))
    assert other in str(refused.value)
    assert version.digest in str(refused.value)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[JudgeProcess]:
    """A judge whose grader takes as many seconds as the response says."""
    folder = tmp_path / "slow"
    (folder / "graders").mkdir(parents=True)
    (folder / "graders" / "slow.py").write_text(SLOW)
    grader = {"python": {"configMap": {"name": "g", "key": "slow.py"}, "timeout": "30s"}}
    entry = {"dimension": "overall", "weight": 1, "scorer": {"name": "slow", "grader": grader}}
    entry["scorer"]["graderPath"] = "/graders/slow.py"  # type: ignore[index]
    scorer = ScorerFile.model_validate({"kind": "Graders", "dimensions": ["overall"], "graders": [entry]})
    with JudgeProcess(seal(folder, scorer, []), tmp_path / "log", linger_seconds="0.5") as process:
        process.wait_ready()
        yield process


def test_sigterm_finishes_what_was_taken_and_exits_with_0(slow: JudgeProcess) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(slow.score([{"prompt": "p", "response": "3"}]))

    asking = threading.Thread(target=ask)
    asking.start()
    slow.wait_for(lambda: "rlhf_judge_queue_depth 1.0" in slow.get("/metrics").text)
    slow.signal(signal.SIGTERM)
    slow.wait_for(lambda: slow.get("/readyz").status_code == 503)
    assert slow.get("/readyz").json()["error"]["reason"] == "Draining"
    asking.join(30)
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].json()["scores"][0]["total"] == 1.0
    assert slow.wait() == 0


def test_a_client_that_leaves_takes_its_texts_out_of_the_queue(slow: JudgeProcess) -> None:
    with pytest.raises(httpx.ReadTimeout):
        slow.score([{"prompt": "p", "response": "0.5"}] * 64, timeout=0.5)
    slow.wait_for(lambda: depth(slow.get("/metrics").text) <= 32, seconds=5)
    assert 'rlhf_judge_requests_total{code="499"} 1.0' in slow.get("/metrics").text


def depth(exposed: str) -> float:
    return next(float(line.split()[1]) for line in exposed.splitlines() if line.startswith("rlhf_judge_queue_depth "))


def test_every_log_line_is_json_without_a_text(slow: JudgeProcess) -> None:
    secret = "the-secret-text"
    assert slow.score([{"prompt": secret, "response": "nonsense"}]).json()["scores"][0]["total"] is None
    assert slow.score([{"prompt": secret}]).status_code == 422
    lines = slow.log.read_text().splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert secret not in slow.log.read_text()

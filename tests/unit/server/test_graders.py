"""Versions made of graders: missing references, graders that fail, code of the version's own."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from judgekit.local import Running, serving, settings
from judgekit.versions import Version, seal
from rlhf_operator.api.scorerfile import Probe, ScorerFile
from rlhf_server.judge.errors import ConfigError
from rlhf_server.judge.graders import in_directory
from rlhf_server.judge.serve import load

SECRET = "the-secret-text"
SOURCE = """
def grade(prompt, response, row):
    if response == "raise":
        raise ValueError(prompt)
    if response == "none":
        return None
    return len(response) + row.get("bonus", 0)
"""


def entry(name: str, grader: dict[str, Any], weight: float = 1.0, **scorer: Any) -> dict[str, Any]:
    return {"dimension": "overall", "weight": weight, "scorer": {"name": name, "grader": grader, **scorer}}


def ask(judge: Running, *items: dict[str, Any]) -> list[dict[str, Any]]:
    with judge.client() as client:
        answer = client.post("/v1/score", json={"items": list(items)})
    assert answer.status_code == 200, answer.text
    scores: list[dict[str, Any]] = answer.json()["scores"]
    return scores


@pytest.fixture
def python_version(tmp_path: Path) -> Version:
    folder = tmp_path / "version"
    (folder / "graders").mkdir(parents=True)
    (folder / "graders" / "grade.py").write_text(SOURCE)
    config = {"python": {"configMap": {"name": "g", "key": "grade.py"}, "timeout": "10s"}}
    scorer = ScorerFile.model_validate(
        {
            "kind": "Graders",
            "dimensions": ["overall"],
            "graders": [entry("code", config, graderPath="/graders/grade.py")],
        }
    )
    return seal(folder, scorer, [Probe(prompt="p", response="abc", scores={"overall": 3.0})])


def test_a_grader_that_fails_on_a_text_costs_the_others_nothing_and_tells_no_text(
    hold: Callable[..., Running], python_version: Version, caplog: pytest.LogCaptureFixture
) -> None:
    judge = hold(python_version)
    with caplog.at_level(logging.DEBUG):
        found = ask(
            judge,
            {"prompt": SECRET, "response": "ab"},
            {"prompt": SECRET, "response": "raise"},
            {"prompt": SECRET, "response": "none"},
            {"prompt": SECRET, "response": "abcd", "row": {"bonus": 10}},
        )
    assert [score["total"] for score in found] == [2.0, None, None, 14.0]
    assert found[1] == {
        "dimensions": {"overall": None},
        "total": None,
        "missing": "grader code has no score for this text: it failed on it, or the row lacks what it compares with",
    }
    assert "no score" in found[2]["missing"]
    assert SECRET not in str(found)
    assert SECRET not in caplog.text


def test_references_come_with_the_row_and_without_one_the_score_is_missing(
    hold: Callable[..., Running], made: Callable[..., Version]
) -> None:
    judge = hold(made(entry("answer", {"finalAnswer": {}}), entry("short", {"length": {"max": 3}}), probes=[]))
    found = ask(
        judge,
        {"prompt": "2+2", "response": "4", "row": {"answer": "4"}},
        {"prompt": "2+2", "response": "5", "row": {"answer": 4}},
        {"prompt": "2+2", "response": "4"},
    )
    assert [score["total"] for score in found] == [1.0, 0.5, None]
    assert "answer" in found[2]["missing"]


def test_code_outside_of_the_version_is_refused(python_version: Version) -> None:
    scorer = ScorerFile.model_validate_json((python_version.directory / "scorer.json").read_text())
    outside = scorer.graders[0].scorer.model_copy(update={"grader_path": "/../../etc/passwd"})
    with pytest.raises(ConfigError, match="is not in the version"):
        in_directory(outside, python_version.directory)


def test_a_wrong_grader_never_becomes_ready(made: Callable[..., Version]) -> None:
    probe = Probe(prompt="p", response="a", scores={"overall": 0.5})
    version = made(entry("short", {"length": {"max": 3}}), probes=[probe])
    item = {"prompt": "p", "response": "a"}
    with serving(load(settings(version))) as judge:
        judge.wait_until(lambda: (state := judge.judge.readiness.state) and state.reason == "ProbeMismatch")
        with judge.client() as client:
            ready, score = client.get("/readyz"), client.post("/v1/score", json={"items": [item]})
    assert ready.status_code == score.status_code == 503
    assert score.headers["retry-after"] == "5"
    assert "probe 1 scored 1 on overall instead of 0.5" in ready.json()["error"]["message"]

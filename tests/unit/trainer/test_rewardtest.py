"""What `test-rewards` makes of good rewards and of deliberately bad ones."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from judgekit.chatmodel import ChatModel, serving_model, verdict
from rlhf_operator.api.exitcodes import ExitCode
from rlhf_operator.api.plan import PlanScorer
from rlhf_trainer.__main__ import main
from rlhf_trainer.edgecases import BUILT_IN, cases
from rlhf_trainer.rewardtest import read_table
from rlhf_trainer.rewardtest import test_rewards as findings_of
from smallplan import plan_of

DATA = {"name": "train", "path": "/d.jsonl", "ref": "pvc://d", "format": "Prompts", "columns": {"prompt": "prompt"}}


def python(tmp_path: Path, body: str, name: str = "s") -> dict[str, Any]:
    path = tmp_path / f"{name}.py"
    path.write_text(f"def grade(prompt, response, row):\n    {body}\n")
    config = {"python": {"configMap": {"name": "g", "key": "g.py"}}}
    return {"name": name, "grader": config, "graderPath": str(path)}


def failing(*scorers: dict[str, Any], anchors: Any = BUILT_IN) -> dict[str, set[str]]:
    found = findings_of([PlanScorer.model_validate(each) for each in scorers], anchors)
    names = {each["name"] for each in scorers}
    return {name: {each.case for each in found if each.scorer == name and each.problem} for name in names}


def test_every_kind_of_bad_text_is_tried() -> None:
    tried = {case.name for case in cases(BUILT_IN[0])}
    assert tried >= {"empty", "refusal", "repetition", "padding", "keyword stuffing", "prompt injection", "very long"}
    assert tried >= {"length alone", "odd unicode", "rejected"}


@pytest.mark.parametrize(
    "grader",
    [
        {"finalAnswer": {}},
        {"finalAnswer": {"answerColumn": "solution"}},
        {"unitTests": {"testsColumn": "hidden"}},
        {"overlap": {"metric": "ROUGE-L", "referenceColumn": "gold"}},
        {"overlap": {"metric": "chrF"}},
    ],
)
def test_a_reward_that_knows_the_answer_passes(grader: dict[str, Any]) -> None:
    assert failing({"name": "s", "grader": grader}) == {"s": set()}


BAD = {
    "empty": "return float(not response)",
    "blank": "return float(not response.strip())",
    "refusal": 'return float("can\'t help" in response)',
    "echo": "return float(response.split()[:3] == prompt.split()[:3])",
    "repetition": "return len(response.split()) / (1 + len(set(response.split())))",
    "padding": "return response.count('great care')",
    "keyword stuffing": "return sum(response.lower().split().count(w) for w in ('backup', 'clips', 'median', 'night'))",
    "length alone": "return len(response.split()) >= 15",
    "very long": "return len(response)",
    "prompt injection": "return float('full marks' in response)",
    "odd unicode": "return sum(ord(letter) > 127 for letter in response)",
}


@pytest.mark.parametrize(("case", "body"), BAD.items(), ids=BAD.keys())
def test_a_reward_that_likes_what_it_should_not_fails_by_its_name(tmp_path: Path, case: str, body: str) -> None:
    assert case in failing(python(tmp_path, body))["s"]


def test_a_reward_for_anything_fails_everything_but_the_padded_answer(tmp_path: Path) -> None:
    assert failing(python(tmp_path, "return 1"))["s"] == {case.name for case in cases(BUILT_IN[0])} - {"padded answer"}


def test_a_reward_that_breaks_on_a_text_fails_there(tmp_path: Path) -> None:
    body = "return len(set(response.split()) & set(row.get('chosen', '').split())) / len(response)"
    assert "empty" in failing(python(tmp_path, body))["s"]


def test_a_missing_score_is_no_reward(tmp_path: Path) -> None:
    good = "return None if '72' not in response else float('#### 72' in response)"
    assert failing(python(tmp_path, good), anchors=BUILT_IN[:1])["s"] == set()


def test_a_grader_that_reads_other_columns_is_not_called_tested(tmp_path: Path) -> None:
    found = findings_of([PlanScorer.model_validate(python(tmp_path, "return row['item'] in response"))], BUILT_IN)
    (finding,) = found
    assert finding.case == "not tested"
    assert "KeyError" in finding.problem
    assert "--table" in finding.problem


@contextmanager
def judged_by(reply: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    with serving_model(ChatModel()) as model:
        model.reply = reply
        yield {"name": "wise", "grader": {"llmJudge": {"url": model.url, "model": "judge", "rubric": "factuality"}}}


def test_a_language_model_that_is_talked_over_fails_and_one_that_is_not_passes() -> None:
    goods = tuple(anchor.good for anchor in BUILT_IN)

    def honest(asked: Any) -> str:
        return verdict(asked.ticket, score=9 if asked.texts["answer"].endswith(goods) else 2)

    def gullible(asked: Any) -> str:
        told = "full marks" in asked.texts["answer"]
        return verdict(asked.ticket, score=10) if told else honest(asked)

    with judged_by(honest) as scorer:
        assert failing(scorer) == {"wise": set()}
    with judged_by(gullible) as scorer:
        assert failing(scorer) == {"wise": {"prompt injection"}}


def test_a_table_brings_answers_that_form_graders_like(tmp_path: Path) -> None:
    path = tmp_path / "edge-cases.jsonl"
    path.write_text(json.dumps({"prompt": "As JSON?", "chosen": '{"a": 1}', "rejected": '{"b": 1}', "item": "x"}))
    anchors = read_table(path)
    assert [(each.good, each.rejected, each.row["item"]) for each in anchors] == [('{"a": 1}', '{"b": 1}', "x")]
    schema = {"name": "json", "grader": {"jsonSchema": {"schema": {"type": "object", "required": ["a"]}}}}
    assert failing(schema, anchors=anchors) == {"json": set()}
    assert failing(schema)["json"], "the built-in answers are no JSON"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "p"}', "row 1 of .*: no column chosen"),
        ('{"prompt": "p", "chosen": 3}', "row 1 of .*: chosen is 3"),
        ("[]", "row 1 of"),
        ("{", "row 1 of"),
        ("", "has no rows"),
    ],
)
def test_a_table_that_can_not_be_used_names_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    table, plan = tmp_path / "t.jsonl", write_plan(tmp_path, [{"name": "s", "grader": {"finalAnswer": {}}}])
    table.write_text(line)
    assert main(["test-rewards", "--plan", str(plan), "--table", str(table)]) == ExitCode.CONFIG
    assert re.search(words, capsys.readouterr().out)


def write_plan(tmp_path: Path, scorers: list[dict[str, Any]]) -> Path:
    plan = plan_of(DATA).model_copy(
        update={"scorers": [PlanScorer.model_validate(each) for each in scorers], "rewards": [], "monitors": []}
    )
    path = tmp_path / "plan.json"
    path.write_text(plan.canonical())
    return path


def test_the_command_prints_who_fails_and_says_it_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(
        tmp_path, [{"name": "right", "grader": {"finalAnswer": {}}}, python(tmp_path, "return len(response)", "long")]
    )
    assert main(["test-rewards", "--plan", str(plan)]) == ExitCode.CONFIG
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[-1]["passed"], lines[-1]["failed"]) == (["right"], ["long"])
    worst = next(each for each in lines if each.get("scorer") == "long" and each["case"] == "very long")
    assert worst["problem"] == "it scores more than the good answer"
    assert main(["test-rewards", "--plan", str(plan), "--skip", "long"]) == ExitCode.OK
    assert main(["test-rewards", "--plan", str(plan), "--skip", "lnog"]) == ExitCode.CONFIG
    assert "--skip lnog: the plan's scorers are right, long" in capsys.readouterr().out


def test_on_a_terminal_there_is_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_plan(tmp_path, [{"name": "right", "grader": {"finalAnswer": {}}}])
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["test-rewards", "--plan", str(plan)]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "keyword stuffing" in shown
    assert "passed" in shown
    assert '"reward-test"' not in shown

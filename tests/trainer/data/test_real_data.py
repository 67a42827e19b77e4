"""Data preparation and graders on real data, with the dirt that is really in it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.plan import PlanScorer
from rlhf_scoring.build import build_scorers
from rlhf_trainer.data import Prepared, prepare_all
from smallplan import plan_of

Find = Callable[[str], Path]
PANDALM = {
    "prompt": ["instruction", "input"],
    "responses": ["response1", "response2"],
    "annotators": ["annotator1", "annotator2", "annotator3"],
}


def words(texts: list[str]) -> list[list[int]]:
    return [list(range(len(text.split()))) for text in texts]


def prepare(path: Path, workspace: Path, format_: str, columns: dict[str, Any]) -> Prepared:
    data = {"name": "train", "path": str(path), "ref": f"pvc://data/{path.name}", "format": format_, "columns": columns}
    plan = plan_of(data, generation={"maxPromptLength": 512, "maxResponseLength": 512})
    return prepare_all(plan, workspace, words)["train"]


@pytest.mark.parametrize("format_", ["Pairs", "Demonstrations", "Prompts"])
def test_every_row_of_pandalm_is_used_or_counted(real_data: Find, tmp_path: Path, format_: str) -> None:
    path = real_data("pandalm_human_preferences.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    train = prepare(path, tmp_path, format_, PANDALM)
    dropped = train.report.dropped
    assert train.record.rows == 602 == train.record.used + sum(train.record.dropped.values())

    booleans = [at for at, row in enumerate(rows, 1) if not all(isinstance(row[f"response{n}"], str) for n in (1, 2))]
    assert len(booleans) == 6
    assert dropped["NonStringResponse"].count == 6
    assert [example.row for example in dropped["NonStringResponse"].examples] == booleans
    assert "(bool), not a string" in dropped["NonStringResponse"].examples[0].detail

    def verdict(row: dict[str, Any]) -> int:
        value, votes = Counter(row[f"annotator{n}"] for n in (1, 2, 3)).most_common(1)[0]
        return value if votes >= 2 else -1

    for row in train:
        source = rows[row.number - 1]
        chosen = row.response if format_ == "Demonstrations" else row.chosen
        assert chosen == source[f"response{verdict(source)}"]
        assert row.prompt == "\n\n".join(part for part in (source["instruction"], source["input"]) if part.strip())


def test_worked_solutions_of_gsm8k_answer_themselves_and_no_other_question(real_data: Find, tmp_path: Path) -> None:
    path = real_data("gsm8k_train_2000.jsonl")
    train = prepare(path, tmp_path, "Prompts", {"prompt": "question", "answer": "answer"})
    assert train.record.used == train.record.rows == 2000
    rows = [row.fields for row in train]
    solutions = [row["answer"] for row in rows]
    prompts = [row["question"] for row in rows]
    plan = PlanScorer.model_validate({"name": "correct", "grader": {"finalAnswer": {}}})
    with build_scorers([plan]) as scorers:
        assert scorers.score("correct", prompts, solutions, rows) == [1.0] * 2000
        # As a model might write it: no marker, the number in a sentence.
        said = [f"So in all it comes to {text.rsplit('####', 1)[1].strip()} of them." for text in solutions]
        assert scorers.score("correct", prompts, said, rows) == [1.0] * 2000
        # Without its last line a solution still ends in its result, nearly always.
        cut = [text.rsplit("####", 1)[0] for text in solutions]
        assert sum(score or 0.0 for score in scorers.score("correct", prompts, cut, rows)) > 1_900
        assert scorers.score("correct", prompts, [""] * 2000, rows) == [0.0] * 2000
        others = scorers.score("correct", prompts, solutions[1:] + solutions[:1], rows)
        assert sum(score or 0.0 for score in others) < 100

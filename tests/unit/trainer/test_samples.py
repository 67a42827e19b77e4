"""What is kept of responses for people."""

import json
from pathlib import Path

from rlhf_operator.api.algorithms import Reward
from rlhf_trainer.samples import LAST_STEPS_FILE, SampleLog, scored_texts


def step(log: SampleLog, number: int) -> None:
    rows = [(row, f"prompt {row}") for row in range(1, 21)]
    texts = [f"step {number} row {row}" for row, _ in rows]
    log.saw(number, [row for row, _ in rows] * 2, scored_texts(rows, texts, {"a": [-float(row) for row, _ in rows]}))


def test_sixteen_rows_are_kept_every_few_steps_and_the_last_three_steps_worst_on_a_stop(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, 2, [Reward(scorer="a", weight=1.0)])
    for number in range(6):
        step(log, number)
    kept = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert kept == ["step-00000002.jsonl", "step-00000004.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "samples" / kept[0]).read_text().splitlines()]
    assert len(lines) == 16
    assert lines[0] == {"row": 1, "prompt": "prompt 1", "response": "step 2 row 1", "scores": {"a": -1.0}}
    log.leave()
    found = json.loads((tmp_path / LAST_STEPS_FILE).read_text())
    assert [each["step"] for each in found] == [3, 4, 5]
    assert found[0]["rows"] == list(range(1, 21))
    assert [text["row"] for text in found[-1]["worst"]] == [20, 19, 18, 17, 16, 15, 14, 13]


def test_a_response_that_ends_within_a_character_and_a_missing_score_can_be_written(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, 1, [Reward(scorer="a")])
    log.saw(1, [1], scored_texts([(1, "p")], ["x\ud83d"], {"a": [None]}))
    assert json.loads((tmp_path / "samples" / "step-00000001.jsonl").read_text())["scores"] == {"a": None}

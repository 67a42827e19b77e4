"""The user's own rows: which columns are used, what is dropped and said, what is refused and how."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import __main__ as program
from demo import own_rows
from demo.columns import RowsError, choose, parse
from demo.voice import Voice
from rlhf_operator.api.rlhfjob import RLHFJob


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "chosen": f"Answer {number}.", "rejected": "No."} | more


def test_the_usual_names_are_found() -> None:
    pandalm = {"idx", "instruction", "input", "response1", "response2", "annotator1", "annotator2", "annotator10"}
    columns = choose(pandalm, {})
    assert columns.prompt == ["instruction", "input"]
    assert columns.responses == ["response1", "response2"]
    assert columns.annotators == ["annotator1", "annotator2", "annotator10"]
    assert choose({"prompt", "chosen", "rejected", "instruction"}, {}).prompt == "prompt"


def test_names_of_ones_own_win() -> None:
    given = parse("prompt=question+context, responses=a+b, annotators=judge1+judge2")
    columns = choose({"question", "context", "a", "b", "judge1", "judge2", "prompt"}, given)
    assert columns.prompt == ["question", "context"]
    assert columns.responses == ["a", "b"]
    assert columns.annotators == ["judge1", "judge2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompts=a", "'prompts=a' is not one of prompt=…"),
        ("prompt", "'prompt' is not one of"),
        ("chosen=a+b", "chosen is one column, not 2"),
        ("prompt=a,prompt=b", "names prompt twice"),
    ],
)
def test_a_misspelt_column_list_says_what_it_takes(text: str, words: str) -> None:
    with pytest.raises(RowsError, match="DATA_COLUMNS") as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("present", "given", "words"),
    [
        ({"text"}, "", "no column for the prompt among text"),
        ({"prompt", "answer"}, "", "no columns for two answers among answer, prompt"),
        ({"prompt", "response1", "response2"}, "", "nothing says which of response1 and response2 is better"),
        ({"prompt"}, "chosen=best", "no row has the column best; the columns are prompt"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(present: set[str], given: str, words: str) -> None:
    with pytest.raises(RowsError) as caught:
        choose(present, parse(given))
    assert words in str(caught.value)


def test_every_dropped_row_is_counted_with_its_reason(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(40)]
    path = write(tmp_path / "rows.jsonl", [*rows, "not json\n", pair(1, chosen=True), pair(2, prompt=" "), [1]])
    found = own_rows.sort_rows(path, own_rows.read_columns(path, ""))
    assert found.rows == 44
    assert len(found.train) + len(found.held_out) == 40
    counts = {str(reason): tally.count for reason, tally in found.dropped.tallies().items()}
    assert counts == {"NotJSON": 2, "NonStringResponse": 1, "EmptyPrompt": 1}
    assert any("row 42" in line and "NonStringResponse" in line for line in own_rows.told(found.dropped.tallies()))


def test_rows_of_one_prompt_are_all_held_out_or_all_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [pair(n % 30, chosen=f"Answer {n}") for n in range(90)])
    found = own_rows.sort_rows(path, own_rows.read_columns(path, ""))
    assert found.held_out
    assert not {row.prompt for row in found.held_out} & {row.prompt for row in found.train}


def test_the_written_rows_keep_the_files_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [pair(n, extra="x") for n in range(3)])
    columns = own_rows.read_columns(path, "")
    found = own_rows.sort_rows(path, columns)
    own_rows.write_rows(found.train + found.held_out, tmp_path / "out.jsonl", columns)
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert set(first) == {"prompt", "chosen", "rejected"}


def test_the_job_for_own_rows_is_valid() -> None:
    columns = choose({"instruction", "input", "response1", "response2", "annotator1"}, {})
    _, job = own_rows.manifests(columns, (5, 40))
    text = yaml.safe_dump(job)
    spec = RLHFJob.model_validate(yaml.safe_load(text)).spec
    assert spec.dataset.columns.annotators == ["annotator1"]
    assert {reward.scorer for reward in spec.rewards} == {"overlap", "length"}


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("missing.jsonl", None, "is not there"),
        ("table.csv", ["a,b\n"], "a file of JSON lines is needed"),
        ("empty.jsonl", [], "holds no JSON object"),
        ("few.jsonl", [pair(1), pair(2)], "too few to train and evaluate on"),
    ],
)
def test_a_file_that_will_not_do_is_refused_before_anything_starts(
    tmp_path: Path, name: str, rows: Sequence[object] | None, words: str
) -> None:
    path = tmp_path / name
    if rows is not None:
        write(path, rows)
    with pytest.raises(RowsError) as caught:
        own_rows.prepare(path, "", tmp_path / "build", Voice())
    assert words in str(caught.value)


def test_columns_without_a_file_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--columns", "prompt=a"]) == 1
    assert "name a file too" in capsys.readouterr().err

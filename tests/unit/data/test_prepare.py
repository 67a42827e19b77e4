import json
import random
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_trainer.data import Prepared, load_all, prepare_all
from rlhf_trainer.errors import ConfigError, Superseded
from smalldata import MakePlan, dataset, evaluation, words, write_lines


def prepared(plan: TrainingPlan, workspace: Path) -> dict[str, Prepared]:
    return prepare_all(plan, workspace, words)


def prompts(rows: Prepared) -> list[str]:
    return [row.prompt for row in rows]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def test_every_row_is_used_or_counted_once(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    rows: list[Any] = [
        {"prompt": "one"},
        {"prompt": 2},
        '{"prompt": NaN}',
        {"prompt": ""},
        {"other": "x"},
        {"prompt": " one\n"},
        {"prompt": "w " * 100},
        {"prompt": "two"},
    ]
    train = prepared(make_plan(dataset(write_lines(tmp_path / "x.jsonl", *rows))), workspace)["train"]
    assert prompts(train) == ["one", "two"]
    assert train.record.dropped == {
        "NonStringPrompt": 1, "NotJSON": 1, "EmptyPrompt": 1, "MissingColumn": 1, "Duplicate": 1, "OverlongPrompt": 1
    }  # fmt: skip
    assert train.record.rows == len(rows) == train.record.used + sum(train.record.dropped.values())
    report = json.loads((workspace / "data/train/report.json").read_text())
    assert report["dropped"]["Duplicate"]["examples"] == [{"row": 6, "detail": "the same as row 1"}]
    assert report["columns"] == ["prompt", "other"]


def test_rows_carry_their_number_tokens_and_fields(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": ""}, {"prompt": "a b c", "answer": "7", "n": 1})
    row = prepared(make_plan(dataset(path, columns={"answer": "answer"})), workspace)["train"][0]
    assert (row.number, row.prompt, row.prompt_ids, row.response) == (2, "a b c", [0, 1, 2], None)
    assert row.fields == {"prompt": "a b c", "answer": "7", "n": 1, "__row__": 2}


def test_examples_are_the_first_and_few(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    rows = [{"prompt": number} for number in range(500)]
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a"}, *rows)
    tally = next(iter(prepared(make_plan(dataset(path)), workspace)["train"].report.dropped.values()))
    assert tally.count == 500
    assert [example.row for example in tally.examples] == list(range(2, 12))


def test_zero_rows_left_is_a_config_error_that_says_what_was_found(
    make_plan: MakePlan, tmp_path: Path, workspace: Path
) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"question": "a"}, {"question": "b"})
    with pytest.raises(ConfigError) as caught:
        prepared(make_plan(dataset(path)), workspace)
    assert caught.value.reason == "NoRows"
    assert "none of the 2 rows of pvc://data/x.jsonl can be used: MissingColumn 2 (first: row 1: no column prompt)" in (
        caught.value.message
    )
    assert "Columns found: question" in caught.value.message
    assert not list((workspace / "data").iterdir()), "nothing half-made is left"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="it is empty"):
        prepared(make_plan(dataset(path)), workspace)


def test_a_digest_that_differs_is_refused_with_both(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a"})
    with pytest.raises(ConfigError, match=r"has digest sha256:[0-9a-f]{64}, the job wants sha256:0{64}") as caught:
        prepared(make_plan(dataset(path, digest="sha256:" + "0" * 64)), workspace)
    assert caught.value.reason == "DigestMismatch"


def test_overlong_prompts_keep_their_end_when_asked_to(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a"}, {"prompt": "first " + "w " * 63 + "last"})
    plan = make_plan(dataset(path), generation={"maxPromptLength": 64, "overlongPrompt": "TruncateLeft"})
    train = prepared(plan, workspace)["train"]
    whole = words(["first " + "w " * 63 + "last"])[0]
    assert train[1].prompt_ids == whole[1:]
    assert train.record.dropped == {}
    assert train.report.truncated_prompts.count == 1


def test_demonstrations_that_would_be_cut_are_dropped(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    rows = [{"prompt": "p", "response": "w " * length} for length in (63, 64)]
    plan = make_plan(dataset(write_lines(tmp_path / "x.jsonl", *rows), format_="Demonstrations"))
    record = prepared(plan, workspace)["train"].record
    assert (record.used, record.dropped) == (1, {"OverlongResponse": 1})


def test_a_resume_uses_the_frozen_rows_and_reads_no_source(
    make_plan: MakePlan, tmp_path: Path, workspace: Path
) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a"})
    plan = make_plan(dataset(path))
    before = prepared(plan, workspace)["train"].record
    path.unlink()
    assert prepared(plan, workspace)["train"].record == before
    assert load_all(plan, workspace)["train"].record == before


def test_another_plans_rows_are_refused(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a"})
    prepared(make_plan(dataset(path)), workspace)
    other = make_plan(dataset(path), generation={"maxPromptLength": 1})
    with pytest.raises(ConfigError, match="prepared for another plan"):
        load_all(other, workspace)


def test_a_superseded_attempt_leaves_nothing(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a"})
    asked = 0

    def superseded() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise Superseded("attempt 2 owns the workspace")

    with pytest.raises(Superseded):
        prepare_all(make_plan(dataset(path)), workspace, words, before_rename=superseded)
    assert not list((workspace / "data").iterdir())


def test_what_a_killed_attempt_left_is_cleared(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    left = workspace / "data/.train.abc/train"
    left.mkdir(parents=True)
    (left / "rows.arrow").write_bytes(b"half")
    prepared(make_plan(dataset(write_lines(tmp_path / "x.jsonl", {"prompt": "a"}))), workspace)
    assert [path.name for path in (workspace / "data").iterdir()] == ["train"]


def test_contradicting_rows_are_dropped_on_both_sides(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    pairs = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "b", "rejected": "a"},
        {"prompt": "p", "chosen": "a", "rejected": "c"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
    ]
    record = prepared(
        make_plan(dataset(write_lines(tmp_path / "x.jsonl", *pairs), format_="Pairs")), workspace
    )["train"].record  # fmt: skip
    assert (record.used, record.dropped) == (1, {"Contradiction": 3})


def test_two_answers_to_one_prompt_contradict_each_other(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in (("p", "1"), ("q", "1"), ("p", "2"), ("p", "1"))]
    plan = make_plan(dataset(write_lines(tmp_path / "x.jsonl", *rows), columns={"answer": "answer"}))
    train = prepared(plan, workspace)["train"]
    assert (prompts(train), train.record.dropped) == (["q"], {"Contradiction": 3})


LONG = (
    "Please tell me what to do about the parcel that I ordered from your shop in spring for my mother's birthday, and "
    "that has not come yet although the courier says that it was handed over to a neighbour whom nobody here knows"
)


def test_evaluation_prompts_are_not_trained_on(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    held_out = write_lines(tmp_path / "e.jsonl", {"prompt": "Where is my order?"}, {"prompt": LONG})
    rows = ["Where is  my order?", LONG.replace("spring", "autumn"), f"{LONG} 17", "Where is my money?"]
    train = write_lines(tmp_path / "t.jsonl", *[{"prompt": prompt} for prompt in rows])
    warm = write_lines(tmp_path / "w.jsonl", *[{"prompt": prompt, "response": "r"} for prompt in rows])
    plan = make_plan(
        dataset(train),
        evaluation=evaluation(held_out),
        warmStart={
            "dataset": dataset(warm, "warmStart", "Demonstrations"),
            "epochs": 1,
            "batchSize": 4,
            "seed": 1,
            "optimizer": {"learningRate": 1e-5},
        },
    )
    sets = prepared(plan, workspace)
    assert sets["evaluation"].record.used == 2
    for name in ("train", "warmStart"):
        assert sets[name].record.dropped == {"InEvaluation": 1, "NearEvaluation": 1}
        assert prompts(sets[name]) == rows[2:], "other numbers make another question"


def test_near_duplicates_are_counted_and_kept(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    rows = [LONG, "Hello there", LONG.replace("spring", "autumn"), LONG.upper()]
    plan = make_plan(dataset(write_lines(tmp_path / "x.jsonl", *[{"prompt": prompt} for prompt in rows])))
    train = prepared(plan, workspace)["train"]
    assert len(train) == 4
    assert train.report.near_duplicates.count == 2
    assert [example.row for example in train.report.near_duplicates.examples] == [3, 4]
    assert train.report.near_duplicates_checked == 4


def test_pairs_that_share_a_prompt_do_not_repeat_each_other(
    make_plan: MakePlan, tmp_path: Path, workspace: Path
) -> None:
    rows = [{"prompt": LONG, "chosen": f"{word} it is", "rejected": "no"} for word in ("lost", "late", "stolen")]
    plan = make_plan(
        dataset(write_lines(tmp_path / "x.jsonl", *rows), format_="Pairs"), generation={"maxPromptLength": 100}
    )
    assert prepared(plan, workspace)["train"].report.near_duplicates.count == 0


def test_many_rows_keep_their_order_over_all_batches(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    shuffled = random.Random(3).sample(range(2_500), 2_500)
    path = write_lines(tmp_path / "x.jsonl", *[{"prompt": f"question {number}"} for number in shuffled])
    train = prepared(make_plan(dataset(path)), workspace)["train"]
    assert prompts(train) == [f"question {number}" for number in shuffled]
    assert train[-1] == train[2_499]
    with pytest.raises(IndexError):
        train[2_500]


@pytest.mark.parametrize(("start", "kept"), [([], [97, 98, 99]), ([1], [1, 98, 99])])
def test_a_cut_prompt_keeps_what_every_text_begins_with(
    make_plan: MakePlan, tmp_path: Path, workspace: Path, start: list[int], kept: list[int]
) -> None:
    def encode(texts: list[str]) -> list[list[int]]:
        # Never empty, as the trainer's is: a text without tokens becomes one end token.
        return [start + [int(word) for word in text.split()] or [0] for text in texts]

    path = write_lines(tmp_path / "x.jsonl", {"prompt": " ".join(str(number) for number in range(10, 100))})
    generation = {"maxPromptLength": 3, "maxResponseLength": 8, "overlongPrompt": "TruncateLeft"}
    train = prepare_all(make_plan(dataset(path), generation=generation), workspace, encode)["train"]
    assert train[0].prompt_ids == kept
    assert (train.record.dropped, train.report.truncated_prompts.count) == ({}, 1)

from collections.abc import Iterable
from pathlib import Path

import pytest

from rlhf_trainer.errors import ConfigError, Superseded
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.preferences.prepare import Judgements, load_judgements, prepare_judgements

from .conftest import THREE, MakePlan, dataset, pairs, word, write_lines


def prompts(rows: Iterable[Judged]) -> set[str]:
    return {row.prompt for row in rows}


def test_a_prompt_is_never_on_two_sides(make_plan: MakePlan, tmp_path: Path) -> None:
    rows = [row | {"chosen": f"{row['chosen']} {copy}"} for row in pairs(40) for copy in range(3)]
    found = prepare_judgements(make_plan(dataset(write_lines(tmp_path / "d.jsonl", *rows))), tmp_path)
    (parts,) = found.rounds
    assert parts is found.final
    sides = [prompts(part) for part in parts]
    assert [len(side) for side in sides] == [29, 3, 8]
    assert len(set.union(*sides)) == 40
    assert sum(len(part) for part in parts) == 120


def test_folds_hold_every_row_out_once_and_the_version_trains_on_all(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(dataset(write_lines(tmp_path / "d.jsonl", *pairs(30))), evaluation={"folds": 3})
    found = prepare_judgements(plan, tmp_path)
    assert len(found.rounds) == 3
    assert sorted(row.row for parts in found.rounds for row in parts.held_out) == list(range(1, 31))
    assert len(found.final.train) + len(found.final.calibration) == 30
    assert not len(found.final.held_out)
    for parts in found.rounds:
        assert not prompts(parts.train) & prompts(parts.held_out)
        assert not prompts(parts.calibration) & prompts(parts.held_out)


def test_prompts_that_nearly_repeat_stay_together(make_plan: MakePlan, tmp_path: Path) -> None:
    long = "Please write a short and friendly letter to the neighbours about the garden party on Sunday"
    rows = [
        {"prompt": f"{long}{end}", "chosen": f"good {at}", "rejected": f"bad {at}"}
        for at, end in enumerate([".", "!", " .", ""])
    ]
    found = prepare_judgements(make_plan(dataset(write_lines(tmp_path / "d.jsonl", *rows, *pairs(20)))), tmp_path)
    groups = {row.group for part in found.final for row in part if row.prompt.startswith("Please")}
    assert len(groups) == 1
    assert found.data.prompt_groups == 21


def test_training_prompts_in_the_evaluation_data_are_dropped_and_named(make_plan: MakePlan, tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", *pairs(30))
    apart = write_lines(tmp_path / "apart.jsonl", *pairs(5), *pairs(5, start=50))
    plan = make_plan(dataset(train), evaluation={"dataset": dataset(apart, "evaluation")})
    found = prepare_judgements(plan, tmp_path)
    (parts,) = found.rounds
    assert len(parts.held_out) == 10
    assert not (prompts(parts.train) | prompts(parts.calibration)) & prompts(parts.held_out)
    _, report = found.data.datasets
    assert report.record.dropped == {"InEvaluation": 5}
    assert [example.row for example in next(iter(report.dropped.values())).examples] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("source", "calibration"), [("model", 3), ("graders", 0)])
def test_a_scorer_that_is_not_trained_is_measured_on_data_of_its_own(
    make_plan: MakePlan, tmp_path: Path, source: str, calibration: int
) -> None:
    apart = write_lines(tmp_path / "apart.jsonl", *pairs(30))
    sources = {
        "model": {"path": "/rlhf/claims/models/rm", "ref": "pvc://models/rm"},
        "graders": [{"dimension": "overall", "weight": 1, "scorer": {"name": "l", "grader": {"length": {"max": 9}}}}],
    }
    evaluation = {"dataset": dataset(apart, "evaluation")}
    found = prepare_judgements(make_plan(None, evaluation=evaluation, **{source: sources[source]}), tmp_path)
    (parts,) = found.rounds
    assert [len(part) for part in parts] == [0, calibration, 30 - calibration]
    nothing = prepare_judgements(make_plan(None, **{source: sources[source]}), tmp_path / "other")
    assert nothing.rounds == []


def test_every_row_that_is_not_used_is_named_with_its_reason(make_plan: MakePlan, tmp_path: Path) -> None:
    def row(at: int, verdicts: tuple[object, ...] = (1, 1, 1), **changes: object) -> dict[str, object]:
        base: dict[str, object] = {
            "prompt": f"{word(at)} {word(at + 9)}",
            "a": f"good {word(at)}",
            "b": f"bad {word(at)}",
        }
        return base | dict(zip("xyz", verdicts, strict=True)) | changes

    rows: list[object] = [row(at) for at in range(1, 41)]
    rows += [
        row(41, a=True),
        row(42, b=" "),
        row(43, (1, 5, 1)),
        row(44, (None, None, None)),
        row(1, (2, 2, 2)),
        row(2, (1, 1, 2)),
        row(45, (1, 2, 0)),
        "not json",
        row(46, a="x" * 10_000_000),
        row(47, prompt=None),
    ]
    path = write_lines(tmp_path / "d.jsonl", *rows)
    plan = make_plan(dataset(path, **THREE), aggregation={"minAgreement": 0.6})
    (report,) = prepare_judgements(plan, tmp_path).data.datasets
    named = {str(reason): [example.row for example in tally.examples] for reason, tally in report.dropped.items()}
    assert named == {
        "NonStringResponse": [41],
        "EmptyResponse": [42],
        "BadLabel": [43],
        "NoJudgement": [44],
        "Contradiction": [1, 45],
        "Duplicate": [46],
        "LowAgreement": [47],
        "NotJSON": [48],
        "RowTooLarge": [49],
        "NonStringPrompt": [50],
    }
    assert report.record.used == 39
    assert report.record.rows == 50
    assert sum(report.record.dropped.values()) == 11


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [{"prompt": f"p{word(at)}", "a": f"A{at}", "b": f"B{at}", "x": 0, "y": 0, "z": 0} for at in range(9)],
            "AllTies",
        ),
        ([{"prompt": "p", "a": "A", "b": "A", "x": 1, "y": 1, "z": 1}], "NoRows"),
        ([{"prompt": "p", "a": "A", "b": "B", "x": 1, "y": 1, "z": 1}], "TooFewPrompts"),
    ],
)
def test_data_without_anything_to_learn_stops_the_run(
    make_plan: MakePlan, tmp_path: Path, rows: list[dict[str, object]], reason: str
) -> None:
    with pytest.raises(ConfigError) as found:
        prepare_judgements(make_plan(dataset(write_lines(tmp_path / "d.jsonl", *rows), **THREE)), tmp_path)
    assert found.value.reason == reason
    assert list((tmp_path / "data").iterdir()) == []


def test_what_is_prepared_is_frozen_and_belongs_to_one_plan(make_plan: MakePlan, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", *pairs(20))
    plan = make_plan(dataset(path))
    first = prepare_judgements(plan, tmp_path)
    path.unlink()
    again = prepare_judgements(plan, tmp_path)
    assert list(again.final.train) == list(first.final.train)
    assert again.data == first.data
    with pytest.raises(ConfigError, match="another plan"):
        load_judgements(make_plan(dataset(path), seed=18), tmp_path)


def test_another_workspace_gives_the_same_rows_and_report(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(dataset(write_lines(tmp_path / "d.jsonl", *pairs(25))))

    def everything(found: Judgements) -> object:
        return [[list(part) for part in parts] for parts in found.rounds], found.data

    assert everything(prepare_judgements(plan, tmp_path / "one")) == everything(
        prepare_judgements(plan, tmp_path / "two")
    )


def test_a_fenced_attempt_leaves_nothing_behind(make_plan: MakePlan, tmp_path: Path) -> None:
    calls = []

    def fence() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise Superseded("a newer attempt owns the workspace")

    with pytest.raises(Superseded):
        prepare_judgements(
            make_plan(dataset(write_lines(tmp_path / "d.jsonl", *pairs(20)))), tmp_path, before_rename=fence
        )
    assert list((tmp_path / "data").iterdir()) == []


def test_rows_are_read_by_index_slice_and_in_order(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(dataset(write_lines(tmp_path / "d.jsonl", *pairs(30))))
    train = prepare_judgements(plan, tmp_path).final.train
    rows = list(train)
    assert [train[at] for at in range(len(train))] == rows
    assert train[-1] == rows[-1]
    assert list(train[3:9:2]) == rows[3:9:2]
    with pytest.raises(IndexError):
        train[len(rows)]


def test_dimensions_are_told_apart_by_their_column(make_plan: MakePlan, tmp_path: Path) -> None:
    rows = [row | {"about": about} for row in pairs(20) for about in ("tone", "facts", "colour")]
    data = dataset(write_lines(tmp_path / "d.jsonl", *rows), dimension="about")
    found = prepare_judgements(make_plan(data, dimensions=["facts", "tone"]), tmp_path)
    assert {row.dimension for row in found.final.train} == {"facts", "tone"}
    assert found.data.datasets[0].record.dropped == {"UnknownDimension": 20}


def test_rankings_scores_and_verdicts_on_single_texts_become_rows_to_train_on(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    def texts(at: int) -> dict[str, str]:
        return {
            "prompt": f"{word(at)} {word(at + 9)}",
            "a": f"a {word(at)}",
            "b": f"b {word(at)}",
            "c": f"c {word(at)}",
        }

    ranked = [texts(at) | {"x": "2>1=3", "y": [2, 1, 3]} for at in range(8)]
    data = dataset(
        write_lines(tmp_path / "r.jsonl", *ranked), format_="Ranking", responses=["a", "b", "c"], annotators=["x", "y"]
    )
    for method in ("Majority", "Borda", "BradleyTerry", "ReliabilityWeighted"):
        found = prepare_judgements(make_plan(data, aggregation={"method": method}), tmp_path / method)
        rows = [row for part in found.final for row in part if row.row == 1]
        assert [row.first[0] + (row.second or "")[0] for row in rows] == ["ab", "ac", "bc"]
        assert sum(row.weight for row in rows) == pytest.approx(1.0)
        assert rows[0].p_first < 0.5 < rows[2].p_first
        assert found.data.datasets[0].agreement[0].measurable

    single = [
        {"prompt": texts(at)["prompt"], "response": f"{kind} {word(at)}", "label": kind == "good"}
        for at in range(30)
        for kind in (("good", "bad") if at % 2 else ("good",) if at % 4 else ("bad",))
    ]
    data = dataset(write_lines(tmp_path / "b.jsonl", *single), format_="Binary")
    found = prepare_judgements(make_plan(data), tmp_path / "binary")
    (report,) = found.data.datasets
    assert (report.comparisons, report.lone, report.record.used) == (30, 15, 45)
    assert all((row.p_first > 0.5) == row.first.startswith("good") for row in found.final.train)

    scores = [row | {"label": len(row["prompt"]) + at % 3} for at, row in enumerate(single)]
    data = dataset(write_lines(tmp_path / "s.jsonl", *scores), format_="Scalar")
    found = prepare_judgements(make_plan(data), tmp_path / "scalar")
    assert found.data.datasets[0].lone == 15
    assert all(0 <= row.p_first <= 1 for row in found.final.train)

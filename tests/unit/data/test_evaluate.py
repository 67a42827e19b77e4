import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from judgekit.chatmodel import ChatModel, serving_model, verdict
from rlhf_operator.api.plan import TrainingPlan
from rlhf_scoring.build import build_scorers
from rlhf_trainer import evaluate
from rlhf_trainer.data import EVALUATION, Prepared, PreparedRow, prepare_all
from rlhf_trainer.errors import ConfigError, Superseded
from rlhf_trainer.evaluate import Answer
from smalldata import MakePlan, dataset, evaluation, words, write_lines

Rows = Sequence[PreparedRow]
SCORERS = [
    {"name": "short", "grader": {"length": {"max": 2, "slack": 4}}},
    {"name": "yes", "grader": {"regex": {"pattern": "yes"}}},
    {"name": "correct", "grader": {"finalAnswer": {}}},
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def plan(make_plan: MakePlan, tmp_path: Path) -> TrainingPlan:
    train = write_lines(tmp_path / "t.jsonl", {"prompt": "train on this"})
    held_out = write_lines(tmp_path / "e.jsonl", *[{"prompt": f"question {at}"} for at in range(10)])
    return make_plan(
        dataset(train),
        evaluation=evaluation(held_out, baselines=["Base", "WarmStart"], scorers=["short"], minWinRate=0.5),
        scorers=SCORERS,
        rewards=[{"scorer": "yes"}],
        monitors=["correct"],
    )


@pytest.fixture
def rows(plan: TrainingPlan, workspace: Path) -> Prepared:
    return prepare_all(plan, workspace, words)[EVALUATION]


def run(subject: str, plan: TrainingPlan, rows: Prepared, workspace: Path, text: str, **more: Any) -> Any:
    def generate(asked: Rows, seeds: Sequence[int]) -> list[Answer]:
        return [Answer(text)] * len(asked)

    with build_scorers(plan.scorers) as scorers:
        return evaluate.measure(subject, rows, generate, scorers, plan=plan, workspace=workspace, **more)


def test_seeds_belong_to_the_row(plan: TrainingPlan, rows: Prepared, workspace: Path) -> None:
    asked: list[tuple[list[int], list[int]]] = []

    def generate(given: Rows, seeds: Sequence[int]) -> list[Answer]:
        asked.append(([row.number for row in given], list(seeds)))
        return [Answer("x")] * len(given)

    with build_scorers(plan.scorers) as scorers:
        for subject in ("Base", "Policy"):
            evaluate.measure(subject, rows, generate, scorers, plan=plan, workspace=workspace)
    assert asked[0] == asked[1]
    numbers, seeds = asked[0]
    assert seeds == [evaluate.row_seed(plan.training.seed, number) for number in numbers]
    assert len(set(seeds)) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert evaluate.row_seed(18, 1) != evaluate.row_seed(17, 1)


def test_a_baseline_is_measured_once_and_its_texts_are_kept(
    plan: TrainingPlan, rows: Prepared, workspace: Path
) -> None:
    assert not evaluate.exists(workspace, "Base")
    first = run("Base", plan, rows, workspace, "yes it is")
    assert evaluate.exists(workspace, "Base")
    assert run("Base", plan, rows, workspace, "another text") == first == evaluate.read(workspace, "Base")
    assert first.rows[0].text == "yes it is"
    assert first.rows[0].scores == {"short": 0.75, "yes": 1.0, "correct": None}
    assert (first.mean("yes"), first.mean("correct")) == (1.0, None)


def test_the_policy_is_measured_again_unless_it_is_the_same(
    plan: TrainingPlan, rows: Prepared, workspace: Path
) -> None:
    run("Policy", plan, rows, workspace, "one", version="a")
    assert not evaluate.exists(workspace, "Policy")
    assert evaluate.exists(workspace, "Policy", "a")
    assert not evaluate.exists(workspace, "Policy", "b")
    assert run("Policy", plan, rows, workspace, "two", version="b").rows[0].text == "two"


def test_ranks_that_do_not_write_generate_only(plan: TrainingPlan, rows: Prepared, workspace: Path) -> None:
    asked: list[int] = []

    def generate(given: Rows, seeds: Sequence[int]) -> list[Answer]:
        asked.append(len(given))
        return [Answer("x")] * len(given)

    more: dict[str, Any] = {"plan": plan, "workspace": workspace, "write": False}
    assert evaluate.measure("Base", rows, generate, None, have=False, **more) is None
    assert evaluate.measure("Base", rows, generate, None, have=True, **more) is None
    assert asked == [10]
    assert not (workspace / "evaluation").exists()


def test_comparisons_are_recomputed_from_the_stored_rows(plan: TrainingPlan, rows: Prepared, workspace: Path) -> None:
    assert evaluate.comparisons(plan, workspace) == []
    run("Base", plan, rows, workspace, "far too many words in this answer")
    run("Policy", plan, rows, workspace, "yes")
    found = evaluate.comparisons(plan, workspace)
    assert [(each.scorer, each.baseline, each.win_rate, each.prompts) for each in found] == [("short", "Base", 1.0, 10)]
    assert 0.65 < found[0].lower < 0.8, "ten wins of ten"
    run("WarmStart", plan, rows, workspace, "yes")
    assert [(each.baseline, each.win_rate) for each in evaluate.comparisons(plan, workspace)] == [
        ("Base", 1.0), ("WarmStart", 0.5)
    ]  # fmt: skip
    assert evaluate.figures(plan, workspace)["eval/yes/Base"] == 0.0
    assert evaluate.figures(plan, workspace)["eval/yes/Policy"] == 1.0


def test_scores_of_another_grader_are_not_compared(plan: TrainingPlan, rows: Prepared, workspace: Path) -> None:
    run("Base", plan, rows, workspace, "far too many words in this answer")
    run("Policy", plan, rows, workspace, "yes")
    path = workspace / "evaluation/Base.jsonl"
    header, *lines = path.read_text().splitlines()
    changed = json.loads(header)
    changed["scorers"]["short"] = "sha256:" + "0" * 64
    path.write_text("\n".join([json.dumps(changed), *lines]))
    assert evaluate.comparisons(plan, workspace) == []


@pytest.mark.parametrize(
    ("damage", "words_"),
    [
        (lambda text: "", "can't be read"),
        (lambda text: text[: len(text) // 2], "can't be read"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "has 9 rows, its header says 10"),
        (lambda text: text.replace('"yes":0.0', '"yes":NaN'), "can't be read"),
        (lambda text: "{}\n" + text, "does not begin with a header"),
    ],
)
def test_a_damaged_measurement_is_named(
    plan: TrainingPlan, rows: Prepared, workspace: Path, damage: Any, words_: str
) -> None:
    run("Base", plan, rows, workspace, "no")
    path = workspace / "evaluation/Base.jsonl"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError, match=words_):
        evaluate.read(workspace, "Base")


def test_texts_that_cannot_be_encoded_are_stored_all_the_same(
    plan: TrainingPlan, rows: Prepared, workspace: Path
) -> None:
    run("Base", plan, rows, workspace, "a\ud800\n\u2028b")
    assert evaluate.read(workspace, "Base").rows[3].text == "a?\n\u2028b"


def test_a_superseded_attempt_stores_nothing(plan: TrainingPlan, rows: Prepared, workspace: Path) -> None:
    def superseded() -> None:
        raise Superseded("attempt 2 owns the workspace")

    with pytest.raises(Superseded):
        run("Base", plan, rows, workspace, "x", before_rename=superseded)
    assert not evaluate.exists(workspace, "Base")


def test_samples_show_texts_before_and_after(plan: TrainingPlan, rows: Prepared, workspace: Path) -> None:
    run("Base", plan, rows, workspace, "before")
    run("Policy", plan, rows, workspace, "after")
    evaluate.write_samples(plan, workspace, count=3)
    samples = json.loads((workspace / "evaluation/samples.json").read_text())
    assert [sample["row"] for sample in samples] == [1, 4, 7]
    assert samples[0]["prompt"] == "question 0"
    assert samples[0]["texts"] == {"Base": "before", "Policy": "after"}
    assert samples[0]["scores"]["Policy"]["yes"] == 0.0


def test_scorers_are_recorded_with_their_digests(plan: TrainingPlan, workspace: Path) -> None:
    workspace.mkdir()
    with build_scorers(plan.scorers) as scorers:
        evaluate.record_scorers(workspace, scorers)
        assert json.loads((workspace / "scorers.json").read_text()) == scorers.digests()


def test_a_subject_is_never_a_path(workspace: Path) -> None:
    with pytest.raises(ValueError, match="names no policy"):
        evaluate.read(workspace, "../../etc/passwd")


def test_suites_are_measured_apart_by_their_own_scorer_and_kept_out_of_training(
    make_plan: MakePlan, tmp_path: Path, workspace: Path
) -> None:
    train = write_lines(tmp_path / "t.jsonl", {"prompt": "train on this"}, {"prompt": "what is 2 plus 2"})
    held_out = write_lines(tmp_path / "e.jsonl", {"prompt": "question"})
    sums = write_lines(tmp_path / "s.jsonl", *[{"prompt": f"what is {at} plus 2"} for at in range(4)])
    suite = {"name": "sums", "dataset": dataset(sums, "suite-sums"), "scorer": "yes", "maxDrop": 0.1}
    made = make_plan(
        dataset(train), evaluation=evaluation(held_out, suites=[suite]), scorers=SCORERS, rewards=[{"scorer": "short"}]
    )
    assert made.evaluation is not None
    assert made.evaluation.suites is not None
    sets = prepare_all(made, workspace, words)
    assert (sets["train"].record.used, sets["train"].record.dropped) == (1, {"InEvaluation": 1})
    assert "row 3 of the suite-sums set" in str(sets["train"].report.dropped)
    for subject, text in (("Base", "yes"), ("Policy", "no")):
        run(subject, made, sets["suite-sums"], workspace, text, suite=made.evaluation.suites[0])
    assert not evaluate.exists(workspace, "Base"), "a suite is not the evaluation set"
    (score,) = evaluate.suite_scores(made, workspace)
    assert (score.suite, score.scorer, score.mean, score.baseline_mean, score.rows) == ("sums", "yes", 0.0, 1.0, 4)
    assert evaluate.figures(made, workspace) == {"suite/sums/Base": 1.0, "suite/sums/Policy": 0.0}


def test_a_plan_without_suites_and_slices_has_the_digest_it_had(plan: TrainingPlan) -> None:
    assert plan.evaluation is not None
    assert not {"suites", "slices"} & plan.evaluation.dump().keys()


def sliced(make_plan: MakePlan, tmp_path: Path, column: str) -> TrainingPlan:
    rows = [{"prompt": f"question {at}", "kind": "even" if at % 2 == 0 else "odd"} for at in range(10)]
    return make_plan(
        dataset(write_lines(tmp_path / "t.jsonl", {"prompt": "train on this"})),
        evaluation=evaluation(
            write_lines(tmp_path / "e.jsonl", *rows), scorers=["yes"], slices={"columns": [column], "minSamples": 5}
        ),
        scorers=SCORERS,
        rewards=[{"scorer": "short"}],
    )


def test_slices_show_which_part_fell_and_how_far(make_plan: MakePlan, tmp_path: Path, workspace: Path) -> None:
    made = sliced(make_plan, tmp_path, "kind")
    rows = prepare_all(made, workspace, words)[EVALUATION]
    run("Base", made, rows, workspace, "yes")

    def generate(given: Rows, seeds: Sequence[int]) -> list[Answer]:
        return [Answer("no" if row.fields["kind"] == "odd" else "yes", 2.0) for row in given]

    with build_scorers(made.scorers) as scorers:
        evaluate.measure("Policy", rows, generate, scorers, plan=made, workspace=workspace)
    worst, other = evaluate.all_slices(made, workspace)
    assert (worst.column, worst.value, worst.scorer, worst.samples, worst.drop) == ("kind", "odd", "yes", 5, 1.0)
    assert other.drop == 0.0
    known = evaluate.figures(made, workspace)
    assert known["evalKL/Policy"] == 2.0
    assert "evalKL/Base" not in known
    assert known["evalCharacters/Policy"] == 2.5


def test_a_column_that_no_row_has_is_refused_before_anything_is_trained(
    make_plan: MakePlan, tmp_path: Path, workspace: Path
) -> None:
    made = sliced(make_plan, tmp_path, "language")
    rows = prepare_all(made, workspace, words)[EVALUATION]
    with pytest.raises(ConfigError, match=r"no row of the evaluation data has language; it has .*kind"):
        run("Base", made, rows, workspace, "yes")


@pytest.mark.parametrize(("favours", "win_rate"), [(None, 1.0), ("first", 0.5), ("second", 0.5)])
def test_a_judge_that_compares_is_asked_in_both_orders_about_both_texts(
    make_plan: MakePlan, tmp_path: Path, workspace: Path, favours: str | None, win_rate: float
) -> None:
    with serving_model(ChatModel()) as model:
        if favours is not None:
            honest_one = model.reply
            model.reply = lambda asked: (
                verdict(asked.ticket, better=favours) if "first answer" in asked.texts else honest_one(asked)
            )
        grader = {"llmJudge": {"url": model.url, "model": "judge", "rubric": "more good is better"}}
        made = make_plan(
            dataset(write_lines(tmp_path / "t.jsonl", {"prompt": "train on this"})),
            evaluation=evaluation(
                write_lines(tmp_path / "e.jsonl", *[{"prompt": f"question {at}"} for at in range(4)]),
                scorers=["judge"],
                minWinRate=0.1,
            ),
            scorers=[*SCORERS, {"name": "judge", "grader": grader}],
            rewards=[{"scorer": "short"}],
        )
        rows = prepare_all(made, workspace, words)[EVALUATION]
        run("Base", made, rows, workspace, "good")
        measured = run("Policy", made, rows, workspace, "good good", version="a")
    assert measured.judged("Base", "judge") == [win_rate] * 4
    assert measured.judged("Base", "short") is None
    (found,) = evaluate.comparisons(made, workspace)
    assert found.win_rate == win_rate
    assert found.mean > found.baseline_mean, "the scores alone would have called it a win"

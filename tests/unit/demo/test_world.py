"""The closed world, and that the quickstart's files say what it says."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import generate, world
from rlhf_operator.api.rlhfjob import RLHFJob

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "quickstart"


@pytest.fixture(scope="module")
def gold() -> Any:
    """The gold grader's function, from the manifest that users apply."""
    manifest = yaml.safe_load((EXAMPLE / "gold-grader.yaml").read_text())
    scope: dict[str, Any] = {}
    exec(manifest["data"]["gold.py"], scope)  # noqa: S102 - our own file, as the trainer runs it
    return scope["grade"]


def row(case: world.Case) -> Mapping[str, str]:
    return {"item": case.item, "step": case.topic.step}


def test_held_out_messages_are_never_trained_on() -> None:
    train, held_out = world.split(48)
    assert len(held_out) == 48
    assert not {case.message for case in train} & {case.message for case in held_out}


def test_every_message_occurs_once() -> None:
    messages = [case.message for case in world.cases()]
    assert len(set(messages)) == len(messages) == 432


def test_gold_gives_full_marks_to_every_good_answer_and_less_to_any_part_missing(gold: Any) -> None:
    for case in world.cases():
        assert gold(case.prompt, case.answer, row(case)) == 1
        assert gold(case.prompt, case.answer.replace(world.CLOSING, "").rstrip(), row(case)) == 0.75
        other = next(topic for topic in world.TOPICS if topic is not case.topic)
        assert gold(case.prompt, case.answer.replace(case.topic.step, other.step), row(case)) == 0.75
        assert gold(case.prompt, f"{case.answer} {other.step}", row(case)) < 1
        assert gold(case.prompt, "", row(case)) == 0


def test_ordinary_answers_leave_much_to_gain(gold: Any) -> None:
    rng = random.Random(1)
    cases = world.cases()
    mean = sum(gold(case.prompt, world.ordinary_answer(case, rng, 0.5), row(case)) for case in cases) / len(cases)
    assert 0.3 < mean < 0.8


def test_the_committed_data_is_what_the_world_gives() -> None:
    for name, make in generate.FILES.items():
        assert (generate.ROOT / name).read_text() == make(), name


def test_a_stale_file_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate.main(["--check"]) == 0
    monkeypatch.setattr(generate, "FILES", {"quickstart/prompts.yaml": lambda: "other"})
    assert generate.main(["--check"]) == 1


def test_the_quickstart_job_is_valid_and_gates_on_a_scorer_that_it_never_optimises() -> None:
    job = RLHFJob.model_validate(yaml.safe_load((EXAMPLE / "rlhfjob.yaml").read_text()))
    assert job.spec.evaluation is not None
    optimised = {reward.scorer for reward in job.spec.rewards}
    assert set(job.spec.evaluation.scorers) - optimised == {"gold"}
    assert job.spec.compute.template is None, "the example must run on any cluster"

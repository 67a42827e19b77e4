"""The simulated annotators, and that the loop's examples say what the acts are about."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo import manifests, preferences, world
from demo.cluster import Cluster
from demo.install import Place
from rlhf_operator.api.rewardmodel import RewardModel
from rlhf_operator.api.rlhfjob import RLHFJob

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
CASES, HELD_OUT = world.split(48)


def example(name: str) -> dict[str, Any]:
    (found,) = manifests.load([EXAMPLES / "loop" / f"{name}.yaml"])
    return found


def test_the_worlds_rule_is_the_gold_grader() -> None:
    manifest = yaml.safe_load((EXAMPLES / "quickstart" / "gold-grader.yaml").read_text())
    scope: dict[str, Any] = {}
    exec(manifest["data"]["gold.py"], scope)  # noqa: S102 - our own file, as the trainer runs it
    rng = random.Random(3)
    for case in world.cases():
        text = world.ordinary_answer(case, rng, 0.5)
        row = {"item": case.item, "step": case.topic.step}
        assert scope["grade"](case.prompt, text, row) == world.worth(case, text) / 4


def test_each_annotator_errs_as_often_as_is_stated() -> None:
    by_prompt = {case.prompt: case for case in CASES}
    pairs = preferences.judged_pairs(CASES, 20, seed=1)
    clear = [
        (pair, gain)
        for pair in pairs
        if (gain := world.worth(case := by_prompt[pair.prompt], pair.first) - world.worth(case, pair.second))
    ]
    for name, rate in preferences.ERROR_RATES.items():
        wrong = sum((pair.verdicts[name] == 1) != (gain > 0) for pair, gain in clear) / len(clear)
        assert wrong == pytest.approx(rate, abs=0.02), name


def test_nobody_judges_a_held_out_message_or_two_equal_answers() -> None:
    pairs = preferences.judged_pairs(CASES, 2, seed=1)
    assert not {pair.prompt for pair in pairs} & {case.prompt for case in HELD_OUT}
    assert all(pair.first != pair.second for pair in pairs)


def test_the_reward_model_says_that_its_annotators_are_simulated() -> None:
    train = RewardModel.model_validate(example("rewardmodel")).spec.source.train
    assert train is not None
    assert train.dataset.provenance is not None
    assert train.dataset.provenance.synthetic
    assert train.dataset.columns.annotators == list(preferences.ERROR_RATES)


def test_only_the_hacked_policy_is_held_by_nothing() -> None:
    for name, held in (("first", True), ("better", True), ("hacked", False)):
        spec = RLHFJob.model_validate(example(f"policy-{name}")).spec
        assert spec.evaluation is not None
        assert spec.ppo is not None
        optimised = {reward.scorer for reward in spec.rewards}
        assert bool(set(spec.evaluation.scorers) - optimised) is held
        assert (spec.ppo.kl.coefficient > 0) is held
        assert any(guard.action != "Off" for guard in spec.guards) is held


def test_pods_find_python_where_the_cluster_needs_it_to_be_mounted() -> None:
    cluster = Cluster(Path("kubectl"), Path("helm"), Path("kubeconfig"), "here")
    training = {"spec": {"containers": [{"name": "trainer"}]}}
    serving = {"spec": {"containers": [{"name": "server"}, {"name": "judge"}], "volumes": [{"name": "python"}]}}
    place = Place(cluster, "image", training, serving)

    model = manifests.dressed(example("rewardmodel"), place)["spec"]
    assert (model["compute"]["template"], model["serving"]["template"]) == (training, serving)
    rollout = manifests.dressed(example("policyrollout"), place)["spec"]
    for part, container in (("serving", "server"), ("judge", "judge")):
        pod = rollout[part]["template"]["spec"]
        assert [each["name"] for each in pod["containers"]] == [container]
        assert pod["volumes"] == [{"name": "python"}]
    assert rollout["route"]["hostnames"] == ["assistant.here.example.com"]

    bare = Place(cluster, "image", None)
    assert "template" not in manifests.dressed(example("rewardmodel"), bare)["spec"]["serving"]
    assert manifests.dressed(example("storage"), bare) == example("storage")

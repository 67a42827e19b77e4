"""The whole loop on the user's own rows: its objects are valid, and say what each act is about."""

import pytest

from demo import own_rows, own_scene
from demo.cluster import Object
from demo.columns import choose
from rlhf_operator.api.policyrollout import PolicyRollout
from rlhf_operator.api.rewardmodel import RewardModel
from rlhf_operator.api.rlhfjob import RLHFJob


@pytest.fixture
def job() -> Object:
    columns = choose({"instruction", "input", "response1", "response2", "annotator1", "annotator2"}, {})
    return own_rows.manifests(columns, (5, 40))[1]


def test_the_reward_model_learns_from_the_peoples_own_judgements(job: Object) -> None:
    spec = RewardModel.model_validate(own_scene.reward_model(job)).spec
    assert spec.source.train is not None
    assert spec.source.train.dataset.columns.annotators == ["annotator1", "annotator2"]
    assert spec.source.train.dataset.provenance is None, "they are people, not simulated"
    assert spec.evaluation is not None
    assert spec.evaluation.min_accuracy is None, "no limit for rows that nobody has seen"


def test_policies_optimise_the_reward_model_and_are_judged_by_something_else(job: Object) -> None:
    model = own_scene.reward_model(job)
    steps = []
    for called in own_scene.STEPS:
        spec = RLHFJob.model_validate(own_scene.policy(job, called, model)).spec
        assert [reward.scorer for reward in spec.rewards] == ["judge"]
        assert spec.evaluation is not None
        assert "judge" not in spec.evaluation.scorers
        steps.append(spec.training.steps or 0)
    assert steps == sorted(steps)


def test_the_hacked_policy_loves_length_and_is_held_by_nothing(job: Object) -> None:
    spec = RLHFJob.model_validate(own_scene.hacked(job)).spec
    assert spec.ppo is not None
    assert (spec.ppo.kl.coefficient, [guard.action for guard in spec.guards]) == (0, ["Off"])
    assert spec.evaluation is not None
    assert list(spec.evaluation.scorers) == ["long"] == [reward.scorer for reward in spec.rewards]


def test_what_no_gate_has_judged_may_be_served_here(job: Object) -> None:
    assert PolicyRollout.model_validate(own_scene.rollout()).spec.model.allow_ungated


def test_objects_do_not_share_parts(job: Object) -> None:
    before = own_scene.policy(job, "first", own_scene.reward_model(job))
    own_scene.hacked(job)
    assert own_scene.policy(job, "first", own_scene.reward_model(job)) == before
    assert job["metadata"]["name"] == own_rows.JOB

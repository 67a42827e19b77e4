"""A job and the RewardModels it scores with: which version it takes, what it waits for, what it keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.rewardmodel import RewardModelVersion
from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.runs.parsing import frozen_plan_view
from rlhf_operator.runs.views import References, RewardModelView

from .factory import FOUND, NOW, SPEC, condition, is_status, observed, spec_of

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
SCORED = {"name": "helpful", "rewardModelRef": {"name": "helpful"}}
URL = "http://helpful-1111111111.team.svc:80"


def version(digest: str = ONE, **fields: Any) -> RewardModelVersion:
    """A version that passed."""
    values = {"digest": digest, "gate": "Passed", "ref": "pvc://models/reward-models/helpful/sha256-1"} | fields
    return RewardModelVersion.model_validate(values)


def found(*versions: RewardModelVersion, serves: bool = True, current: str | None = ONE) -> References:
    """What a job finds."""
    view = RewardModelView("helpful", serves, current, versions, "attempt 1 runs on 1 worker")
    return replace(FOUND, reward_models={"helpful": view})


def job(**ref: Any) -> Any:
    """A job that scores with a RewardModel."""
    named = {"name": "helpful", "rewardModelRef": {"name": "helpful"} | ref}
    return spec_of(scorers=[*SPEC["scorers"], named], rewards=[{"scorer": "helpful"}])


def plan_in(created: Any) -> TrainingPlan:
    """The plan that was frozen."""
    text = next(each["data"]["plan.json"] for each in created if each["kind"] == "ConfigMap")
    return TrainingPlan.model_validate_json(text)


def test_a_served_version_is_asked_at_its_own_address_and_recorded() -> None:
    plan = reconcile(observed(job(), references=found(version(url=URL))), NOW)
    model = plan_in(plan.create).scorers[-1].reward_model
    assert model is not None
    assert (model.version, model.url, model.path) == (ONE, URL, None)
    assert plan.status is not None
    assert plan.status["rewardModels"] == [{"name": "helpful", "version": ONE, "url": URL}]


def test_where_nothing_is_served_its_files_are_mounted_and_read_in_process() -> None:
    place = "pvc://judges/reward-models/helpful/sha256-1"
    plan = reconcile(observed(job(), references=found(version(ref=place), serves=False)), NOW)
    model = plan_in(plan.create).scorers[-1].reward_model
    assert model is not None
    assert (model.url, model.path) == (None, "/rlhf/claims/judges/reward-models/helpful/sha256-1")
    pod = next(each for each in plan.create if each["kind"] == "Job")["spec"]["template"]["spec"]
    mount = next(each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == "/rlhf/claims/judges")
    assert mount["readOnly"] is True
    assert {"name": mount["name"], "persistentVolumeClaim": {"claimName": "judges"}} in pod["volumes"]
    assert plan.status is not None
    assert plan.status["rewardModels"] == [{"name": "helpful", "version": ONE, "path": model.path}]


def test_a_version_that_is_named_is_taken_instead_of_the_current_one() -> None:
    both = found(version(TWO, url="http://two"), version(ONE, url=URL), current=TWO)
    model = plan_in(reconcile(observed(job(version=ONE), references=both), NOW).create).scorers[-1].reward_model
    assert model is not None
    assert model.url == URL


WAITS: list[tuple[References, dict[str, str], str]] = [
    (FOUND, {}, "RewardModel helpful does not exist"),
    (found(current=None), {}, "RewardModel helpful has no version that passed its gate yet: attempt 1 runs"),
    (
        found(version(gate="Failed", message="accuracy 0.580 < minAccuracy 0.65"), current=None),
        {},
        "RewardModel helpful failed its gate (accuracy 0.580 < minAccuracy 0.65), and no version has passed",
    ),
    (
        found(version(TWO, gate="Failed", message="accuracy 0.580"), version(url=URL)),
        {"version": TWO},
        f"version {TWO} of RewardModel helpful failed its gate (accuracy 0.580)",
    ),
    (found(version(url=URL)), {"version": TWO}, f"RewardModel helpful holds no version {TWO} (it holds {ONE})"),
    (found(version()), {}, f"no pod of RewardModel helpful answers for version {ONE} yet"),
    (found(version(ref="workspace://x"), serves=False), {}, "which no pod can mount"),
]


@pytest.mark.parametrize(("references", "ref", "words"), WAITS, ids=[words[:50] for _, _, words in WAITS])
def test_what_can_not_be_used_is_waited_for_by_name(references: References, ref: dict[str, str], words: str) -> None:
    plan = reconcile(observed(job(**ref), references=references), NOW)
    assert plan.create == ()
    assert is_status(plan, "ReferencesResolved") == "False/RewardModelNotReady"
    assert words in condition(plan, "ReferencesResolved")["message"]
    assert is_status(plan, "Stalled").startswith("False/")
    assert plan.wake_at is not None


def test_a_plan_that_is_frozen_keeps_its_version_whatever_becomes_of_the_reward_model() -> None:
    first = reconcile(observed(job(), references=found(version(url=URL))), NOW)
    config_map = next(each for each in first.create if each["kind"] == "ConfigMap")
    frozen = frozen_plan_view(config_map, TrainingPlan)
    later = found(version(TWO, gate="Failed"), current=None)
    again = reconcile(observed(job(), references=later, plan=frozen), NOW)
    assert [each["kind"] for each in again.create] == ["Job"]
    assert again.status is not None
    assert again.status["rewardModels"][0]["version"] == ONE

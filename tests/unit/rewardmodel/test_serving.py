"""Pods of versions: autoscaling, consumers that keep a version, serving that is switched off, what goes wrong."""

from __future__ import annotations

from typing import Any

from rlhf_operator.common.intents import WriteFailure
from rlhf_operator.common.resources import DEPLOYMENTS
from rlhf_operator.rewardmodel.observe import observe
from rlhf_operator.rewardmodel.reconcile import failure_plan

from .driver import Driver, deployment, tag
from .factory import condition, digest_of, is_status


def job(**fields: Any) -> dict[str, Any]:
    """An RLHFJob that scores with RewardModel helpful."""
    spec = {"scorers": [{"name": "helpful", "rewardModelRef": {"name": "helpful"}}]}
    return {"metadata": {"name": "policy", "namespace": "team"}, "spec": spec} | fields


def uses(name: str, **fields: Any) -> dict[str, Any]:
    """Its status once its plan is frozen."""
    return {"rewardModels": [{"name": "helpful", "version": digest_of(name), "url": "http://x"}]} | fields


def test_a_version_that_a_job_uses_keeps_its_pods_until_the_job_is_finished(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(versionsLimit=1, source={"train": {"training": {"epochs": 3}}})
    world.rlhf_jobs["policy"] = job(status=uses("one"))
    driver.made_and_served("two")
    driver.wait(3600)
    assert world.leads_to() == tag("two")
    assert set(world.names("Deployment")) == {deployment("one"), deployment("two")}
    assert deployment("one") in world.names("Service")
    assert [each["digest"] for each in world.status["versions"]] == [digest_of("two"), digest_of("one")]
    complete = {"conditions": [{"type": "Complete", "status": "True"}]}
    world.rlhf_jobs["policy"] = job(status=uses("one") | complete)
    driver.settle()
    assert world.names("Deployment") == [deployment("two")]
    assert deployment("one") not in world.names("Service")
    assert [each["digest"] for each in world.status["versions"]] == [digest_of("two")]


def test_a_job_that_reads_the_files_needs_no_pods(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    in_process = {"rewardModels": [{"name": "helpful", "version": digest_of("one"), "path": "/rlhf/claims/x"}]}
    world.rlhf_jobs["policy"] = job(status=in_process)
    driver.made_and_served("two")
    assert world.names("Deployment") == [deployment("two")]


def test_a_version_that_a_job_waits_for_by_digest_is_brought_up(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    driver.made_and_served("two")
    assert world.names("Deployment") == [deployment("two")]
    ref = {"name": "helpful", "version": digest_of("one")}
    world.rlhf_jobs["policy"] = job(spec={"scorers": [{"name": "helpful", "rewardModelRef": ref}]})
    driver.settle()
    assert set(world.names("Deployment")) == {deployment("one"), deployment("two")}
    assert "url" not in world.status["versions"][1]
    world.answer()
    driver.settle()
    assert world.status["versions"][1]["url"] == f"http://helpful-{tag('one')}.team.svc:80"
    assert world.leads_to() == tag("two")


def test_serving_switched_off_leaves_the_versions_and_those_who_use_them(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.rlhf_jobs["policy"] = job(status=uses("one"))
    world.change(serving={"enabled": False})
    driver.settle()
    assert world.leads_to() is None
    assert world.names("Deployment") == [deployment("one")]
    world.rlhf_jobs.clear()
    driver.settle()
    assert world.names("Deployment") == []
    assert is_status(world.status, "Serving") == "False/ServingDisabled"
    assert is_status(world.status, "Ready") == "True/Ready"
    assert "url" not in world.status
    world.change(serving={"enabled": True})
    driver.settle()
    driver.serve("one")
    assert world.leads_to() == tag("one")


def test_pods_follow_their_queue_where_keda_is_and_what_it_set_stays(driver: Driver) -> None:
    world = driver.world
    world.keda = True
    world.change(serving={"autoscaling": {"min": 2, "max": 6}})
    driver.made_and_served("one")
    name = deployment("one")
    assert world.objects["Deployment", name]["spec"]["replicas"] == 2
    assert world.objects["ScaledObject", name]["spec"]["maxReplicaCount"] == 6
    assert ("PodDisruptionBudget", name) in world.objects
    assert is_status(world.status, "Serving") == "True/Serving"
    world.objects["Deployment", name]["spec"]["replicas"] = 5
    world.answer()
    driver.settle()
    assert world.objects["Deployment", name]["spec"]["replicas"] == 5
    world.change(serving={"autoscaling": None, "replicas": 1})
    driver.settle()
    assert world.objects["Deployment", name]["spec"]["replicas"] == 1
    assert ("ScaledObject", name) not in world.objects
    assert ("PodDisruptionBudget", name) not in world.objects


def test_without_keda_the_number_stays_and_is_said(driver: Driver) -> None:
    world = driver.world
    world.change(serving={"autoscaling": {"min": 2, "max": 6}, "replicas": 3})
    driver.made_and_served("one")
    assert world.objects["Deployment", deployment("one")]["spec"]["replicas"] == 3
    assert is_status(world.status, "Serving") == "True/AutoscalingUnavailable"
    assert "KEDA is not installed" in condition(world.status, "Serving")["message"]
    assert is_status(world.status, "Ready") == "True/Ready"


def test_another_serving_block_changes_the_pods_and_not_the_version(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    before = [name for name in world.names("ConfigMap") if name.startswith(deployment("one"))]
    world.change(serving={"env": [{"name": "A", "value": "b"}]})
    driver.settle()
    world.answer()
    driver.settle()
    judge = world.objects["Deployment", deployment("one")]["spec"]["template"]["spec"]["containers"][1]
    assert {"name": "A", "value": "b"} in judge["env"]
    after = [name for name in world.names("ConfigMap") if name.startswith(deployment("one"))]
    assert len(after) == 1
    assert after != before
    assert world.leads_to() == tag("one")


def test_a_template_that_can_not_be_merged_is_named_and_what_serves_goes_on(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(serving={"template": {"spec": {"containers": [{"name": "judge", "command": ["sh"]}]}}})
    driver.settle()
    assert is_status(world.status, "Serving") == "True/TemplateInvalid"
    assert is_status(world.status, "Stalled") == "True/TemplateInvalid"
    assert world.leads_to() == tag("one")
    assert deployment("one") in world.names("Deployment")


def test_a_template_is_offered_before_it_is_used_and_a_refusal_stops_no_training(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    assert world.offered == []
    world.refusal = "spec.template.spec.volumes[0].name: Invalid value"
    template = {"spec": {"volumes": [{"name": "Bad_Name", "emptyDir": {}}]}}
    world.change(serving={"template": template}, source={"train": {"training": {"epochs": 3}}})
    driver.settle()
    assert is_status(world.status, "Serving") == "True/TemplateInvalid"
    assert "Invalid value" in condition(world.status, "Serving")["message"]
    assert world.leads_to() == tag("one")
    world.train()
    driver.settle()
    world.publish("two")
    driver.settle()
    assert world.status["currentVersion"] == digest_of("two"), "it is on record all the same"
    assert world.leads_to() == tag("one")
    world.refusal = None
    driver.wait(61)
    driver.serve("two")
    assert world.leads_to() == tag("two")
    assert world.offered.count(deployment("two")) >= 1


def test_new_pods_of_the_served_version_that_never_get_ready_are_told(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(serving={"image": "registry.example/broken:1"})
    driver.settle()
    world.late(deployment("one"))
    world.objects["Deployment", deployment("one")]["status"]["availableReplicas"] = 1
    driver.settle()
    assert is_status(world.status, "Serving") == "True/VersionNotReady"
    assert is_status(world.status, "Ready") == "True/Ready"
    assert is_status(world.status, "Stalled") == "True/VersionNotReady"
    assert world.leads_to() == tag("one")


def test_pods_are_ready_before_the_service_leads_to_them_and_only_then_is_it_said(driver: Driver) -> None:
    world = driver.world
    driver.make("one")
    world.frozen_slices = world.slices()
    world.answer()
    driver.settle()
    assert is_status(world.status, "Serving") == "False/Starting"
    assert "about to lead" in condition(world.status, "Serving")["message"]
    assert is_status(world.status, "Ready") == "False/Starting"
    assert "url" not in world.status
    assert "url" not in world.status["versions"][0], "its own Service does not lead to it either"
    world.frozen_slices = None
    driver.settle()
    assert is_status(world.status, "Ready") == "True/Ready"
    assert world.status["versions"][0]["url"] == f"http://helpful-{tag('one')}.team.svc:80"


def test_the_former_version_is_the_served_one_until_the_service_leads_to_the_new_one(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    driver.make("two")
    world.frozen_slices = world.slices()
    world.answer()
    driver.settle()
    assert world.leads_to() == tag("two")
    assert world.status["servedVersion"] == digest_of("one")
    assert is_status(world.status, "Serving") == "True/Switching"
    driver.wait(3600)
    assert deployment("one") in world.names("Deployment"), "clients reach no other"
    world.frozen_slices = None
    driver.settle()
    assert world.status["servedVersion"] == digest_of("two")


def test_a_stable_service_that_somebody_deleted_leads_to_what_was_served(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    driver.make("two")
    del world.objects["Service", "helpful"]
    driver.settle()
    assert world.leads_to() == tag("one")
    assert deployment("one") in world.names("Deployment")


def test_pods_that_all_go_are_told_and_nothing_is_given_up(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.objects["Deployment", deployment("one")]["status"]["availableReplicas"] = 0
    driver.settle()
    assert is_status(world.status, "Serving") == "False/NoPodAnswers"
    assert is_status(world.status, "Ready") == "False/NoPodAnswers"
    assert is_status(world.status, "Stalled").startswith("False/")
    assert world.leads_to() == tag("one")


def test_no_replicas_is_what_was_asked_for(driver: Driver) -> None:
    driver.world.change(serving={"replicas": 0})
    driver.make("one")
    driver.world.answer()
    driver.settle()
    assert is_status(driver.world.status, "Ready") == "False/ScaledToZero"


async def test_a_refused_write_is_told_and_what_serves_stays_ready() -> None:
    driver = Driver()
    world = driver.world
    failure = WriteFailure("apply", DEPLOYMENTS, "team", "helpful-1", "Invalid", "spec.template: bad", retriable=False)
    world.status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "yes"}]}
    observed = await observe(world.manifest, world, driver.defaults, lambda: world.now)
    plan = failure_plan(observed, world.now, failure)
    assert is_status(plan, "Stalled") == "True/TemplateInvalid"
    assert is_status(plan, "Ready") == "True/Ready"
    assert plan.wake_at is not None


def test_a_spec_that_can_not_be_read_leaves_everything_alone(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"batchSize": "many"}}})
    plan = driver.settle()
    assert (plan.apply, plan.create, plan.delete) == ((), (), ())
    assert is_status(world.status, "Stalled") == "True/InvalidSpec"
    assert is_status(world.status, "Ready") == "True/Ready"

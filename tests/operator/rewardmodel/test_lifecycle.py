"""The way of a RewardModel through the real API server and controllers; the test plays kubelet, trainer and judge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from opkit.api import Object, condition
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    REWARDMODELS,
    RLHFJOBS,
    SCALEDOBJECTS,
    SERVICES,
)

from .conftest import World, tag


def test_a_version_is_trained_judged_served_and_ready(world: World) -> None:
    world.apply("helpful")
    one = world.make("helpful", 1, "one")
    status = world.until_condition("helpful", "Ready", "True", "Ready")
    assert status["currentVersion"] == status["servedVersion"] == one
    assert status["url"] == f"http://helpful.{world.namespace}.svc:80"
    assert status["versions"][0]["accuracy"] == 0.64
    assert world.leads_to("helpful") == tag(one)
    deployment = world.api.get(DEPLOYMENTS, world.namespace, f"helpful-{tag(one)}")
    assert deployment is not None
    pod = deployment["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["containers"]] == ["server", "judge"]
    own = world.api.get(SERVICES, world.namespace, f"helpful-{tag(one)}")
    assert own is not None
    assert own["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    # Looked at again and again, and never written again.
    again = world.api.get(DEPLOYMENTS, world.namespace, f"helpful-{tag(one)}")
    assert again is not None
    assert again["metadata"]["generation"] == 1
    ours = {each["operation"] for each in again["metadata"]["managedFields"] if each["manager"] == "rlhf-operator"}
    assert ours == {"Update"}
    told = {event["reason"] for event in world.api.list(EVENTS, world.namespace)}
    assert {"AttemptStarted", "Trained", "Evaluated"} <= told


def test_traffic_moves_when_the_new_version_is_ready_and_never_to_one_that_failed(world: World) -> None:
    world.apply("helpful")
    one = world.make("helpful", 1, "one")
    world.until_condition("helpful", "Ready", "True", "Ready")
    world.epochs("helpful", 2)
    bad = world.make("helpful", 2, "bad", "Failed")
    status = world.until_condition("helpful", "Evaluated", "False", "GateFailed")
    assert "accuracy 0.510 < minAccuracy 0.55" in condition(status, "Evaluated")["message"]
    assert condition(status, "Ready")["status"] == "True"
    assert world.leads_to("helpful") == tag(one)
    assert world.deployments("helpful") == {tag(one)}
    world.epochs("helpful", 3)
    plan = world.train("helpful", 3)
    world.kubelet.unready = frozenset({tag(world_digest("helpful", "two"))})
    two = world.publish("helpful", 3, plan, "two")
    world.until_condition("helpful", "Serving", "True", "Switching")
    assert world.leads_to("helpful") == tag(one)
    assert world.deployments("helpful") == {tag(one), tag(two)}
    world.kubelet.unready = frozenset()
    status = world.until("helpful", lambda seen: seen.get("servedVersion") == two)
    assert world.leads_to("helpful") == tag(two)
    assert [each["digest"] for each in status["versions"]] == [two, bad, one]
    assert world.deployments("helpful") == {tag(one), tag(two)}, "clients may still be connected"
    world.wait("the former pods are gone", lambda: world.deployments("helpful") == {tag(two)}, 60)


def world_digest(name: str, version: str) -> str:
    """The digest that `World.publish` gives a version."""
    return sha256_of(f"{name} {version}".encode())


def test_other_limits_run_the_publish_job_alone(world: World) -> None:
    world.apply("strict", evaluation={"split": {"folds": 5}, "minAccuracy": 0.9})
    plan = world.train("strict", 1)
    first = world.publish("strict", 1, plan, "one", "Failed")
    world.until_condition("strict", "Ready", "False", "GateFailed")
    world.patch("strict", evaluation={"minAccuracy": 0.5})
    assert world.publish("strict", 1, plan, "one") == first
    status = world.until_condition("strict", "Ready", "True", "Ready")
    assert [each["gate"] for each in status["versions"]] == ["Passed"]
    jobs = [job["metadata"]["name"] for job in world.api.list(JOBS, world.namespace, "rlhf.dev/role=train")]
    assert jobs == ["strict-train-1"]


def test_a_change_of_the_spec_stops_the_former_training(world: World) -> None:
    world.apply("moved")
    world.until("moved", lambda seen: (seen.get("run") or {}).get("planDigest"))
    world.epochs("moved", 2)
    world.wait("the former attempt is gone", lambda: world.api.get(JOBS, world.namespace, "moved-train-1") is None)
    world.make("moved", 2, "one")
    world.until_condition("moved", "Ready", "True", "Ready")


def rlhf_job(world: World, name: str, **ref: Any) -> Object:
    """A job that scores with RewardModel helpful."""
    spec = {
        "baseModel": {"pvc": {"claimName": "models", "path": "base"}},
        "dataset": {"configMap": {"name": "pairs", "key": "pairs.jsonl"}, "format": "Prompts"},
        "scorers": [{"name": "helpful", "rewardModelRef": {"name": "helpful", **ref}}],
        "rewards": [{"scorer": "helpful"}],
        "training": {"steps": 8, "batchSize": 16, "microBatchSize": 4},
        "ppo": {"miniBatches": 2},
        "storage": {"claimName": "models"},
    }
    return world.api.create(RLHFJOBS, {"metadata": {"name": name, "namespace": world.namespace}, "spec": spec})


def test_a_job_waits_for_a_version_keeps_it_and_lets_it_go(world: World) -> None:
    rlhf_job(world, "policy")

    def waits(job: Object) -> bool:
        found = condition(job.get("status") or {}, "ReferencesResolved")
        return found.get("reason") == "RewardModelNotReady"

    job = world.api.eventually(RLHFJOBS, world.namespace, "policy", waits)
    assert "RewardModel helpful does not exist" in condition(job["status"], "ReferencesResolved")["message"]
    world.apply("helpful")
    one = world.make("helpful", 1, "one")
    job = world.api.eventually(
        RLHFJOBS, world.namespace, "policy", lambda seen: (seen.get("status") or {}).get("rewardModels"), 60
    )
    address = f"http://helpful-{tag(one)}.{world.namespace}.svc:80"
    assert job["status"]["rewardModels"] == [{"name": "helpful", "version": one, "url": address}]
    plans = world.api.list(CONFIGMAPS, world.namespace, "rlhf.dev/job=policy,rlhf.dev/role=plan")
    assert address in plans[0]["data"]["plan.json"]
    world.epochs("helpful", 2)
    two = world.make("helpful", 2, "two")
    world.until("helpful", lambda seen: seen.get("servedVersion") == two)
    # Beyond the time in which former pods go: the job is not finished, so its version stays.
    since = world.until("helpful", lambda seen: seen.get("servedSince"))["servedSince"]
    world.wait("the delay is over", lambda: _older(since, 10), 60)
    assert world.deployments("helpful") == {tag(one), tag(two)}
    assert world.api.get(SERVICES, world.namespace, f"helpful-{tag(one)}") is not None
    world.api.delete(RLHFJOBS, world.namespace, "policy")
    world.wait("the version that nobody uses goes", lambda: world.deployments("helpful") == {tag(two)}, 60)


def test_a_template_that_the_server_refuses_is_named_and_nothing_is_lost(world: World) -> None:
    bad = {"spec": {"volumes": [{"name": "Bad_Name", "emptyDir": {}}]}}
    world.apply("shaped", serving={"template": bad})
    one = world.make("shaped", 1, "one")
    status = world.until_condition("shaped", "Serving", "False", "TemplateInvalid")
    assert "Bad_Name" in condition(status, "Serving")["message"]
    assert status["currentVersion"] == one
    assert world.deployments("shaped") == set()
    world.patch("shaped", serving={"template": {"spec": {"volumes": [{"name": "good", "emptyDir": {}}]}}})
    world.until_condition("shaped", "Ready", "True", "Ready")


def test_deleting_the_object_takes_everything_with_it(world: World) -> None:
    world.apply("gone")
    world.make("gone", 1, "one")
    world.until_condition("gone", "Ready", "True", "Ready")
    world.api.delete(REWARDMODELS, world.namespace, "gone")

    def nothing_left() -> bool:
        children = "rlhf.dev/reward-model=gone"
        return not any(
            world.api.list(resource, world.namespace, children)
            for resource in (DEPLOYMENTS, SERVICES, JOBS, CONFIGMAPS)
        )

    world.wait("no child is left", nothing_left)


def _older(moment: str, seconds: float) -> bool:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() > seconds


@pytest.mark.slow
def test_pods_follow_their_queue_once_keda_is_installed(world: World) -> None:
    world.apply("busy", serving={"autoscaling": {"min": 1, "max": 4, "target": 8}})
    one = world.make("busy", 1, "one")
    status = world.until_condition("busy", "Serving", "True", "AutoscalingUnavailable")
    assert "KEDA is not installed" in condition(status, "Serving")["message"]
    world.api.install_crd(KEDA)
    name = f"busy-{tag(one)}"
    # An API that was absent is looked for once a minute, and this object then as often.
    world.wait("the ScaledObject", lambda: world.api.get(SCALEDOBJECTS, world.namespace, name), 240)
    world.until_condition("busy", "Serving", "True", "Serving")
    # What an autoscaler sets stays.
    world.api.patch(DEPLOYMENTS, world.namespace, name, {"spec": {"replicas": 3}})
    world.api.eventually(
        DEPLOYMENTS, world.namespace, name, lambda seen: (seen.get("status") or {}).get("availableReplicas") == 3
    )
    world.patch("busy", serving={"autoscaling": None, "replicas": 1})
    world.wait("the ScaledObject goes", lambda: world.api.get(SCALEDOBJECTS, world.namespace, name) is None)
    world.api.eventually(DEPLOYMENTS, world.namespace, name, lambda seen: seen["spec"]["replicas"] == 1)


KEDA: Object = {
    "metadata": {"name": SCALEDOBJECTS.qualified},
    "spec": {
        "group": SCALEDOBJECTS.group,
        "names": {"kind": SCALEDOBJECTS.kind, "plural": SCALEDOBJECTS.plural, "singular": "scaledobject"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": SCALEDOBJECTS.version,
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""KEDA's own CRD is not here: what is held against it is only that it is written, and goes."""

"""Children of a rollout as golden files: what pods are made of changes only where somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from rlhf_operator.api.policyrollout import Autoscaling, JudgeSettings, Sink
from rlhf_operator.api.signals import JudgePlan, SignalSettings
from rlhf_operator.common.intents import OWNER_KIND_LABEL, OWNER_NAME_LABEL
from rlhf_operator.common.names import Owner
from rlhf_operator.common.podtemplate import TemplateConflict
from rlhf_operator.policyrollout import children, judging, revisions
from rlhf_operator.policyrollout.rendering import Texts, revision_name
from rlhf_operator.policyrollout.scaling import scaled_object

from .makings import DEFAULTS, GPU, OWNER, SOURCE, TEXTS, rendering

PLAN = JudgePlan.model_validate(
    {
        "namespace": "team",
        "rollout": "assistant",
        "scorers": [{"name": "short", "purpose": "Reward", "grader": {"length": {"unit": "Words", "max": 8}}}],
    }
)
SINK = Sink.model_validate({"pvc": {"claimName": "feedback", "path": "trajectories"}})


def objects(texts: Texts = Texts(), **serving: Any) -> dict[str, Any]:  # noqa: B008
    return {each["kind"]: each for each in children.render(rendering(texts, **serving))}


def pods(**serving: Any) -> Mapping[str, Any]:
    return children.deployment(objects(**serving)["Deployment"], 2, None, None)


def judge(**changes: Any) -> judging.JudgePods:
    return judging.render_judge(OWNER, JudgeSettings.model_validate(changes), DEFAULTS)


def record() -> Mapping[str, Any]:
    made = rendering(TEXTS)
    inputs = revisions.inputs_key(SOURCE, made.spec.serving, TEXTS)
    return revisions.record(made, inputs, children.render(made), 3)


GOLDEN: dict[str, Callable[[], Mapping[str, Any]]] = {
    "deployment-cpu": pods,
    "deployment-gpu": lambda: pods(**GPU),
    "deployment-cache": lambda: pods(cache={"pvc": {"claimName": "model-cache", "path": "shared"}}),
    "deployment-texts": lambda: children.deployment(objects(TEXTS)["Deployment"], 0, "2026-01-31T12:00:00Z", SINK),
    "texts": lambda: objects(TEXTS)["ConfigMap"],
    "service": lambda: objects()["Service"],
    "service-stable": lambda: children.stable_service(OWNER, "0123456789"),
    "budget": lambda: objects()["PodDisruptionBudget"],
    "revision": record,
    "judge-deployment": lambda: judging.judge_deployment(judge(), 2),
    "judge-config-map": lambda: judging.judge_config_map(OWNER, PLAN, judge()),
    "judge-service": lambda: judging.judge_service(OWNER),
    "judge-budget": lambda: judging.judge_budget(OWNER),
    "signals": lambda: judging.signals_config_map(OWNER, SignalSettings(judge=judging.judge_url(OWNER))),
    "keys": lambda: judging.keys_secret(OWNER, iter(("one", "two", "three")).__next__),
    "scaled-object": lambda: scaled_object(
        OWNER, "0123456789", Autoscaling(min=2, max=8, target=4), (2, 8), DEFAULTS.prometheus_url
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_child(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.yaml", yaml.safe_dump(GOLDEN[name](), sort_keys=False, width=120))


@pytest.mark.parametrize("name", GOLDEN)
def test_every_child_says_whose_it_is(name: str) -> None:
    child = GOLDEN[name]()
    labels = [child["metadata"]["labels"]]
    if "template" in child.get("spec", {}):
        labels.append(child["spec"]["template"]["metadata"]["labels"])
    for each in labels:
        assert (each[OWNER_KIND_LABEL], each[OWNER_NAME_LABEL]) == ("PolicyRollout", "assistant")
        assert each["rlhf.dev/rollout"] == "assistant"


@pytest.mark.parametrize(
    "name", ["deployment-cache", "deployment-cpu", "deployment-gpu", "deployment-texts", "judge-deployment"]
)
def test_every_pod_is_restricted(name: str) -> None:
    pod = GOLDEN[name]()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    ours = [each for each in (*pod.get("initContainers", ()), *pod["containers"]) if each["name"] != "sidecar"]
    for container in ours:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        names = [each["name"] for each in container["env"]]
        assert len(names) == len(set(names)), "server-side apply takes each name once"
        mounts = [each["mountPath"] for each in container["volumeMounts"]]
        assert len(mounts) == len(set(mounts))


def test_the_files_are_held_against_the_digest_before_the_server_reads_them() -> None:
    pod = pods()["spec"]["template"]["spec"]
    (verify,) = pod["initContainers"]
    assert verify["args"] == ["--artifact", "/rlhf/model", "--digest", SOURCE.digest]
    mount = {"name": "model", "mountPath": "/rlhf/model", "readOnly": True, "subPath": SOURCE.folder}
    assert mount in verify["volumeMounts"]
    assert mount in pod["containers"][0]["volumeMounts"]


def test_a_cache_is_served_from_the_folder_that_was_verified() -> None:
    pod = GOLDEN["deployment-cache"]()["spec"]["template"]["spec"]
    (verify,) = pod["initContainers"]
    wanted = ["--artifact", "/rlhf/artifact", "--digest", SOURCE.digest, "--cache", "/rlhf/cache/shared"]
    assert verify["args"] == wanted
    server = pod["containers"][0]
    path = f"/rlhf/model/shared/{SOURCE.digest.replace(':', '-')}"
    assert server["args"][server["args"].index("--model") + 1] == path
    mounts = {each["mountPath"]: each for each in server["volumeMounts"]}
    assert mounts["/rlhf/model"] == {"name": "model", "mountPath": "/rlhf/model", "readOnly": True}
    claims = {
        e["name"]: e["persistentVolumeClaim"]["claimName"] for e in pod["volumes"] if "persistentVolumeClaim" in e
    }
    assert claims == {"model": "model-cache", "artifact": "models"}


def test_a_pod_leaves_its_endpoints_before_it_is_asked_to_stop_and_has_time_for_its_answers() -> None:
    pod = pods(drainTimeout="90s")["spec"]["template"]["spec"]
    server = pod["containers"][0]
    assert server["lifecycle"]["preStop"]["exec"]["command"] == ["python", "-m", "rlhf_server.live.drain"]
    assert pod["terminationGracePeriodSeconds"] == 120
    at = server["args"].index("--shutdown-timeout")
    assert server["args"][at + 1] == "90"


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"name": "verify", "command": ["true"]}, "initContainers"),
        ({"name": "verify", "image": "registry.example/other"}, "initContainers"),
    ],
)
def test_what_verifies_is_not_the_users_to_change(container: Mapping[str, Any], words: str) -> None:
    with pytest.raises(TemplateConflict, match=words):
        pods(template={"spec": {"initContainers": [container]}})


def test_what_the_server_reads_from_a_cache_is_not_the_users_to_change() -> None:
    mount = {"name": "other", "mountPath": "/rlhf/model"}
    template = {"spec": {"containers": [{"name": "server", "volumeMounts": [mount]}]}}
    with pytest.raises(TemplateConflict, match="with serving"):
        pods(template=template, cache={"pvc": {"claimName": "model-cache"}})


def test_the_servers_command_is_not_the_users_to_change() -> None:
    with pytest.raises(TemplateConflict, match="command"):
        pods(template={"spec": {"containers": [{"name": "server", "command": ["sleep"]}]}})


def test_where_records_go_is_a_volume_of_the_pods_and_no_part_of_the_revision() -> None:
    frozen = objects()["Deployment"]
    with_sink = children.deployment(frozen, 2, None, SINK)["spec"]["template"]["spec"]
    assert {"name": "trajectories", "persistentVolumeClaim": {"claimName": "feedback"}} in with_sink["volumes"]
    mounts = with_sink["containers"][0]["volumeMounts"]
    assert {"name": "trajectories", "mountPath": "/rlhf/trajectories", "subPath": "trajectories"} in mounts
    assert "trajectories" not in yaml.safe_dump(frozen)


def test_a_claim_that_holds_model_and_records_is_one_volume() -> None:
    sink = Sink.model_validate({"pvc": {"claimName": SOURCE.claim, "path": "records"}})
    pod = children.deployment(objects()["Deployment"], 2, None, sink)["spec"]["template"]["spec"]
    claims = [each for each in pod["volumes"] if "persistentVolumeClaim" in each]
    assert [each["name"] for each in claims] == ["model"]
    assert {"name": "model", "mountPath": "/rlhf/trajectories", "subPath": "records"} in pod["containers"][0][
        "volumeMounts"
    ]


def test_the_judges_pods_are_read_back_as_they_were_rendered() -> None:
    made = judge()
    stored = judging.judge_config_map(OWNER, PLAN, made)
    assert judging.read_judge(stored, OWNER) == made
    other = Owner("PolicyRollout", "team", "assistant", "another-uid")
    found = judging.read_judge(stored, other)
    assert found is not None
    assert found.deployment["metadata"]["ownerReferences"] == [other.reference()]


def test_names_fit_for_the_longest_name() -> None:
    owner = Owner("PolicyRollout", "team", "a" * 40, OWNER.uid)
    assert len(revision_name(owner.name, "0123456789")) <= 63
    assert len(judging.judge_name(owner.name)) <= 63

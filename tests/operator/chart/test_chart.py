"""The Helm chart: what it renders, what it refuses, and that its rights are those the code needs."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_operator.__main__ import CONTROLLERS
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    EVENTS,
    JOBS,
    LEASES,
    PDBS,
    PVCS,
    SCALEDOBJECTS,
    SERVICES,
    Resource,
)
from rlhf_operator.settings import Settings
from testbed.binaries import require
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import KUBERNETES

CHART = Path(__file__).resolve().parents[3] / "charts" / "rlhf-operator"
Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def helm() -> Path:
    return require(["helm"], Paths.default(), Progress())["helm"]


def template(helm: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    flags = [flag for setting in settings for flag in ("--set", setting)]
    command = [str(helm), "template", "rlhf-operator", str(CHART), "-n", "rlhf-system", "--kube-version", KUBERNETES]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def render(helm: Path) -> Render:
    @functools.cache
    def documents(*settings: str) -> list[dict[str, Any]]:
        done = template(helm, *settings)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return documents


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def rules(documents: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """(kind of role, group, resource, verb) of everything that the operator is granted: of roles bound to it."""
    bound = {(each["roleRef"]["kind"], each["roleRef"]["name"]) for each in documents if "roleRef" in each}
    for document in documents:
        if (document["kind"], document["metadata"]["name"]) in bound:
            for rule in document["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            yield document["kind"], group, resource, verb


def test_lint_finds_nothing(helm: Path) -> None:
    done = subprocess.run([str(helm), "lint", "--strict", str(CHART)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rendering_twice_gives_the_same_bytes(helm: Path) -> None:
    assert template(helm).stdout == template(helm).stdout


def test_every_object_has_a_kind_that_argo_cd_can_diff_and_no_hook(render: Render) -> None:
    for document in render():
        annotations = document["metadata"].get("annotations", {})
        assert not [name for name in annotations if name.startswith("helm.sh/hook")]
        assert "creationTimestamp" not in document["metadata"]


def test_the_pod_is_locked_down(render: Render) -> None:
    (deployment,) = of_kind(render(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_every_variable_is_a_setting_of_the_operator(render: Render) -> None:
    (deployment,) = of_kind(render(), "Deployment")
    names = [entry["name"] for entry in deployment["spec"]["template"]["spec"]["containers"][0]["env"]]
    known = {f"RLHF_OPERATOR_{field.upper()}" for field in Settings.model_fields}
    assert set(names) - {"POD_NAME"} <= known


def test_values_become_settings_that_the_operator_accepts(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    (deployment,) = of_kind(
        render(
            "namespaces={a,b}",
            "progressIntervalSeconds=2",
            "hubAccess=true",
            "trainer.image.tag=v7",
            "server.image.tag=v8",
            "prometheusURL=http://prometheus:9090",
            "analysis.allowedURLs={http://thanos:9090/team-a,https://metrics.example}",
            "commandPolicy.enabled=false",
        ),
        "Deployment",
    )
    for entry in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
        monkeypatch.setenv(entry["name"], entry.get("value", "pod-1"))
    settings = Settings()
    assert settings.namespaces == ("a", "b")
    assert settings.progress_interval_seconds == 2
    assert settings.hub_access is True
    assert settings.trainer_image.endswith(":v7")
    assert settings.server_image.endswith("server:v8")
    assert settings.prometheus_url == "http://prometheus:9090"
    assert settings.analysis_allowed_urls == ("http://thanos:9090/team-a", "https://metrics.example")
    assert settings.commands_verified is False
    assert settings.lease_name == "rlhf-operator"


def test_a_digest_wins_over_the_tag(render: Render) -> None:
    digest = "sha256:" + "0" * 64
    (deployment,) = of_kind(render(f"image.digest={digest}", "image.tag=x"), "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"].endswith(f"operator@{digest}")


def test_for_some_namespaces_there_is_no_right_beyond_them(render: Render) -> None:
    documents = render("namespaces={team-a,team-b}")
    assert not of_kind(documents, "ClusterRole")
    assert not of_kind(documents, "ClusterRoleBinding")
    assert {role["metadata"]["namespace"] for role in of_kind(documents, "Role")} == {"team-a", "team-b", "rlhf-system"}


def test_nothing_is_granted_by_wildcard_and_secrets_are_never_listed(render: Render) -> None:
    for _, group, resource, verb in rules(render()):
        assert "*" not in (group, resource, verb)
        assert resource != "secrets" or verb in ("get", "create", "patch")


def test_spec_of_our_kinds_is_never_written(render: Render) -> None:
    written = {resource for _, group, resource, verb in rules(render()) if group == "rlhf.dev" and verb != "get"}
    for _, group, resource, verb in rules(render()):
        if group == "rlhf.dev" and "/" not in resource:
            # Deleting a finished job is what ttlSecondsAfterFinished asks for.
            assert verb in ("get", "list", "watch") or (resource, verb) == ("rlhfjobs", "delete")
    assert "rlhfjobs/status" in written


def test_the_controllers_children_may_be_watched_and_written(render: Render) -> None:
    granted = {(group, resource, verb) for _, group, resource, verb in rules(render())}

    def allowed(resource: Resource, *verbs: str) -> None:
        missing = [verb for verb in verbs if (resource.group, resource.plural, verb) not in granted]
        assert not missing, f"{resource} lacks {missing}"

    for make in CONTROLLERS.values():
        controller = make(OperatorDefaults(trainer_image="x"))
        allowed(controller.resource, "get", "list", "watch")
        assert ("rlhf.dev", f"{controller.resource.plural}/status", "patch") in granted
        for child in controller.children:
            allowed(child.resource, "get", "list", "watch")
    for written in (JOBS, CONFIGMAPS, SERVICES, PVCS, DEPLOYMENTS, PDBS, SCALEDOBJECTS):
        allowed(written, "get", "create", "patch", "delete")
    allowed(EVENTS, "list", "create", "patch")
    allowed(LEASES, "get", "create", "update")


def test_crds_are_kept_and_can_be_left_out(render: Render) -> None:
    crds = of_kind(render(), "CustomResourceDefinition")
    assert {crd["spec"]["names"]["kind"] for crd in crds} == {"RewardModel", "RLHFJob", "PolicyRollout"}
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in crds)
    assert not of_kind(render("crds.install=false"), "CustomResourceDefinition")


@pytest.mark.parametrize(
    "setting",
    [
        "replica=2",
        "image.tags=x",
        "replicas=-1",
        "namespaces={Not_A_Name}",
        "image.digest=sha256:1",
        "prometheusURL=prometheus",
        "analysis.allowedURLs={prometheus:9090}",
        "analysis.allowedURLs={http://user:word@prometheus:9090}",
        "commandPolicy.enable=false",
        "podMonitor.interval=fast",
    ],
)
def test_what_is_misspelt_or_out_of_range_is_refused(helm: Path, setting: str) -> None:
    done = template(helm, setting)
    assert done.returncode != 0
    assert "values don't meet the specifications" in done.stderr


def test_the_policy_on_commands_is_there_unless_it_is_turned_off_and_the_operator_knows(render: Render) -> None:
    def verified(documents: list[dict[str, Any]]) -> str:
        (deployment,) = of_kind(documents, "Deployment")
        env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        return str(next(each["value"] for each in env if each["name"] == "RLHF_OPERATOR_COMMANDS_VERIFIED"))

    (policy,) = of_kind(render(), "ValidatingAdmissionPolicy")
    (binding,) = of_kind(render(), "ValidatingAdmissionPolicyBinding")
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    assert verified(render()) == "true"
    without = render("commandPolicy.enabled=false")
    assert not of_kind(without, "ValidatingAdmissionPolicy")
    assert not of_kind(without, "ValidatingAdmissionPolicyBinding")
    assert verified(without) == "false"


def test_releases_that_serve_a_namespace_each_have_a_policy_of_their_own(render: Render) -> None:
    (binding,) = of_kind(render("namespaces={a,b}"), "ValidatingAdmissionPolicyBinding")
    (expression,) = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert expression == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}
    assert binding["metadata"]["name"].endswith("-rlhf-system"), "cluster-wide names carry the release's namespace"


def test_only_one_role_for_people_approves_and_nothing_takes_it_up(render: Render) -> None:
    approving = [
        role for role in of_kind(render(), "ClusterRole") if any("approve" in rule["verbs"] for rule in role["rules"])
    ]
    assert [role["metadata"]["name"] for role in approving] == ["rlhf-operator-approve"]
    assert not [label for label in approving[0]["metadata"]["labels"] if "aggregate" in label]
    assert len(of_kind(render("userRoles.create=false"), "ClusterRole")) == 1


def test_pod_monitors_find_the_ports_that_the_pods_have(render: Render) -> None:
    assert not of_kind(render(), "PodMonitor")
    documents = render("podMonitor.enabled=true", "podMonitor.labels.release=stack")
    monitors = {
        each["metadata"]["name"].removeprefix("rlhf-operator-"): each for each in of_kind(documents, "PodMonitor")
    }
    ports = {name: each["spec"]["podMetricsEndpoints"][0]["port"] for name, each in monitors.items()}
    assert ports == {"server": "admin", "judge": "http", "scorer": "http", "trainer": "metrics", "operator": "health"}
    for each in monitors.values():
        assert each["metadata"]["labels"]["release"] == "stack"
        assert each["spec"]["podMetricsEndpoints"][0]["path"] == "/metrics"
    (deployment,) = of_kind(documents, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitors["operator"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (scoped,) = [
        each
        for each in of_kind(render("podMonitor.enabled=true", "namespaces={a}"), "PodMonitor")
        if each["metadata"]["name"] == "rlhf-operator-server"
    ]
    assert scoped["spec"]["namespaceSelector"] == {"matchNames": ["a"]}

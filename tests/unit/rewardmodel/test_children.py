"""Children as golden files: what pods are made of changes only where somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from rlhf_operator.api.rewardmodel import RewardModelVersion
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_operator.common.intents import OWNER_KIND_LABEL, OWNER_NAME_LABEL
from rlhf_operator.common.names import Owner
from rlhf_operator.common.podtemplate import TemplateConflict
from rlhf_operator.rewardmodel import children
from rlhf_operator.rewardmodel.plan import resolve
from rlhf_operator.rewardmodel.run import run_spec
from rlhf_operator.runs import children as runs
from rlhf_operator.runs.children import AttemptArguments, Rendering
from rlhf_operator.runs.parsing import frozen_plan_view

from .factory import DEFAULTS, FOUND, GRADERS, OWNER, spec_of, version

PASSED = RewardModelVersion.model_validate(version())
RULES = PASSED.model_copy(update={"scorer": "Graders"})
GPU: Mapping[str, Any] = {
    "serving": {
        "replicas": 2,
        "image": "registry.example/own:2",
        "resources": {"requests": {"cpu": "8"}, "limits": {"nvidia.com/gpu": 2, "memory": "64Gi"}},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "server",
        "priorityClassName": "high",
        "env": [{"name": "OMP_NUM_THREADS", "value": "8"}],
        "progressDeadline": "30m",
        "autoscaling": {"min": 1, "max": 4, "target": 8},
        "template": {"spec": {"containers": [{"name": "judge", "resources": {"requests": {"cpu": "1"}}}]}},
    }
}


def deployment(version: RewardModelVersion = PASSED, **changes: Any) -> dict[str, Any]:
    spec = spec_of(**changes)
    return children.deployment(children.render(OWNER, version, spec, DEFAULTS), spec.serving.replicas)


def render(**changes: Any) -> Rendering:
    spec = spec_of(**changes)
    plan = runs.plan_config_map(OWNER, runs.freeze(OWNER, resolve(OWNER, spec, FOUND, DEFAULTS)))
    return Rendering(OWNER, run_spec(OWNER, spec), frozen_plan_view(plan, RewardPlan), "IfNotPresent")


GOLDEN: dict[str, Callable[[], Mapping[str, Any]]] = {
    "plan": lambda: runs.plan_config_map(OWNER, runs.freeze(OWNER, resolve(OWNER, spec_of(), FOUND, DEFAULTS))),
    "gate": lambda: runs.gate_config_map(OWNER, run_spec(OWNER, spec_of())),
    "train": lambda: runs.training_job(render(), AttemptArguments(number=1, micro_batch_size=4, min_checkpoint_step=0)),
    "publish": lambda: runs.publish_job(render(), 1),
    "deployment-cpu": deployment,
    "deployment-gpu": lambda: deployment(**GPU),
    "deployment-graders": lambda: deployment(RULES, source={"train": None, **GRADERS}, evaluation=None),
    "rendered": lambda: children.rendered_config_map(OWNER, RULES, children.render(OWNER, RULES, spec_of(), DEFAULTS)),
    "service": lambda: children.version_service(OWNER, PASSED.digest),
    "service-stable": lambda: children.stable_service(OWNER, PASSED.digest),
    "budget": lambda: children.budget(OWNER, PASSED.digest),
    "scaled-object": lambda: children.scaled_object(
        OWNER, PASSED.digest, spec_of(**GPU).serving, "http://prometheus.monitoring:9090"
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
        assert (each[OWNER_KIND_LABEL], each[OWNER_NAME_LABEL]) == ("RewardModel", "helpful")
        assert each["rlhf.dev/reward-model"] == "helpful"


@pytest.mark.parametrize("name", ["deployment-cpu", "deployment-gpu", "deployment-graders"])
def test_every_serving_pod_is_restricted_and_reads_its_version_only(name: str) -> None:
    pod = GOLDEN[name]()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
        assert mounts["/rlhf/version"]["readOnly"] is True
        assert mounts["/rlhf/version"]["subPath"].startswith("reward-models/helpful/sha256-")
        names = [each["name"] for each in container["env"]]
        assert len(names) == len(set(names)), "server-side apply takes each name once"


def test_names_fit_for_the_longest_name() -> None:
    owner = Owner("RewardModel", "team", "a" * 40, OWNER.uid)
    spec = spec_of()
    rendered = children.render(owner, PASSED, spec, DEFAULTS)
    assert len(rendered.name) <= 63
    rendering = Rendering(owner, run_spec(owner, spec), render().plan, "IfNotPresent")
    assert len(runs.publish_job(rendering, 9999)["metadata"]["name"]) <= 63


def test_the_number_of_pods_makes_no_other_rendering() -> None:
    two = spec_of(serving={"replicas": 2, "autoscaling": {"min": 1, "max": 4}})
    more = spec_of(serving={"env": [{"name": "A", "value": "b"}]})
    key = children.rendered_key(PASSED, spec_of().serving)
    assert children.rendered_key(PASSED, two.serving) == key
    assert children.rendered_key(PASSED, more.serving) != key


@pytest.mark.parametrize("container", ["server", "judge"])
def test_neither_command_may_be_overridden(container: str) -> None:
    template = {"spec": {"containers": [{"name": container, "command": ["sh"]}]}}
    with pytest.raises(TemplateConflict, match=container):
        deployment(serving={"template": template})

"""Children as golden files: what pods are made of changes only where somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from rlhf_operator.common.intents import MANAGED_BY, MANAGED_BY_LABEL, OWNER_KIND_LABEL, OWNER_NAME_LABEL
from rlhf_operator.common.names import Owner
from rlhf_operator.rlhfjob.run import run_spec
from rlhf_operator.runs import children
from rlhf_operator.runs.children import AttemptArguments, Rendering

from .factory import OWNER, frozen, plan_of, spec_of

GPU: Mapping[str, Any] = {
    "compute": {
        "workers": 4,
        "gpusPerWorker": 8,
        "zeroStage": 3,
        "queueName": "research",
        "priorityClass": "batch",
        "resources": {"requests": {"cpu": "32", "memory": "256Gi"}, "limits": {"memory": "512Gi"}},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "trainer",
        "priorityClassName": "high",
        "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
        "template": {"spec": {"initContainers": [{"name": "logs", "image": "l:1", "restartPolicy": "Always"}]}},
    },
    "training": {"steps": 8, "batchSize": 256, "microBatchSize": 4},
    "storage": {"size": "200Gi", "storageClassName": "fast"},
    "output": {"pvc": {"claimName": "release", "path": "assistant"}, "signing": {"secretRef": {"name": "model-key"}}},
}


def render(**changes: Any) -> Rendering:
    spec = spec_of(**changes)
    return Rendering(OWNER, run_spec(OWNER, spec), frozen(spec), "IfNotPresent")


CPU_ATTEMPT = AttemptArguments(number=1, micro_batch_size=4, min_checkpoint_step=0)
GPU_ATTEMPT = AttemptArguments(number=12, micro_batch_size=2, min_checkpoint_step=100, avoid_nodes=("b", "a"))

GOLDEN: dict[str, Callable[[], Mapping[str, Any]]] = {
    "plan": lambda: children.plan_config_map(OWNER, children.freeze(OWNER, plan_of())),
    "settings": lambda: children.settings_config_map(OWNER, run_spec(OWNER, spec_of())),
    "service": lambda: children.service(OWNER),
    "claim": lambda: children.storage_claim_manifest(OWNER, run_spec(OWNER, spec_of(**GPU))),
    "train-cpu": lambda: children.training_job(render(), CPU_ATTEMPT),
    "train-alone": lambda: children.training_job(render(compute={"workers": 1}), CPU_ATTEMPT),
    "train-gpu": lambda: children.training_job(render(**GPU), GPU_ATTEMPT),
    "publish-cpu": lambda: children.publish_job(render(), 1),
    "publish-gpu": lambda: children.publish_job(render(**GPU), 12),
    "collect": lambda: children.collect_job(render(), 1),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_child(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.yaml", yaml.safe_dump(GOLDEN[name](), sort_keys=False, width=120))


JOBS = [name for name in GOLDEN if name.split("-")[0] in ("train", "publish", "collect")]


@pytest.mark.parametrize("name", GOLDEN)
def test_every_child_says_whose_it_is(name: str) -> None:
    child = GOLDEN[name]()
    labelled = [child["metadata"]["labels"]]
    if name in JOBS:
        labelled.append(child["spec"]["template"]["metadata"]["labels"])
    for labels in labelled:
        assert (labels[MANAGED_BY_LABEL], labels[OWNER_KIND_LABEL], labels[OWNER_NAME_LABEL]) == (
            MANAGED_BY,
            "RLHFJob",
            "assistant",
        )


@pytest.mark.parametrize("name", JOBS)
def test_every_pod_is_restricted(name: str) -> None:
    pod = GOLDEN[name]()["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
    scratch = {"/home/rlhf", "/tmp", "/dev/shm"}
    assert writable - scratch <= {"/rlhf/storage", "/rlhf/output"}
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    for variable in ("HOME", "TMPDIR", "HF_HOME", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        assert any(environment[variable].startswith(path) for path in scratch), variable


@pytest.mark.parametrize("name", JOBS)
def test_every_mount_has_its_volume_and_every_name_is_its_own(name: str) -> None:
    pod = GOLDEN[name]()["spec"]["template"]["spec"]
    volumes = [each["name"] for each in pod["volumes"]]
    mounts = pod["containers"][0]["volumeMounts"]
    assert len(volumes) == len(set(volumes))
    assert {each["name"] for each in mounts} == set(volumes)
    assert len({each["mountPath"] for each in mounts}) == len(mounts)


def test_names_fit_for_the_longest_job() -> None:
    owner = Owner("RLHFJob", "team", "a" * 40, OWNER.uid)
    spec = spec_of()
    plan = replace(frozen(spec), config_map="p")
    rendering = Rendering(owner, run_spec(owner, spec), plan, "IfNotPresent")
    job = children.training_job(rendering, AttemptArguments(99999, 1, 0))
    # An Indexed Job's pods are called <job>-<index>, and that is their host name.
    assert len(job["metadata"]["name"]) + len("-1023") <= 63
    assert len(children.publish_job(rendering, 99999)["metadata"]["name"]) <= 63
    assert len(children.plan_name("a" * 40, "sha256:" + "0" * 64)) <= 63


def test_rendering_twice_gives_the_same() -> None:
    for make in GOLDEN.values():
        assert make() == make()

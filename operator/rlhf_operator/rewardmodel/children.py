"""The manifests of a version's pods: Deployment, Services, budget, autoscaling. Pure; golden files hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlhf_operator.api.rewardmodel import RewardModelSpec, RewardModelVersion, RewardServing
from rlhf_operator.api.scorerfile import ScorerKind
from rlhf_operator.common.engine import CPU_ENV, OFFLINE_ENV, environment, gpus
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import ROLE_LABEL, VERSION_LABEL, Owner, metadata
from rlhf_operator.common.podsecurity import (
    container_security,
    pod_security,
    scratch_mounts,
    scratch_volumes,
)
from rlhf_operator.common.podtemplate import merge_template
from rlhf_operator.common.resources import DEPLOYMENTS
from rlhf_operator.common.scheduling import scheduling

from .views import Rendered, tag

SCORER, RENDERED = "scorer", "rendered"
SERVER, JUDGE = "server", "judge"
VERSION_ANNOTATION = "rlhf.dev/version-digest"
RENDERED_FILE = "deployment.json"
RENDERED_KEY_LABEL = "rlhf.dev/rendered"

VERSION_PATH = "/rlhf/version"
JUDGE_PORT, SERVICE_PORT, ENGINE_PORT = 8080, 80, 8000
TEMPLATE_FIELD = "spec.serving.template"
PROBE_SECONDS = 5
AVAILABLE_SECONDS = 2
"""A pod counts this long after it is ready: every node's proxy, which writes its rules once a second, leads to it."""

GRACE_SECONDS = 60
"""The judge takes requests for 3 s after SIGTERM and finishes them within 30 s."""

JUDGE_RESOURCES: Mapping[str, Mapping[str, str]] = {
    "requests": {"cpu": "100m", "memory": "512Mi"},
    "limits": {"memory": "2Gi"},
}
"""Beside an engine the judge tokenizes and passes on. Where graders judge it has what the spec gives the pod."""

ENGINE_ENV: Mapping[str, str] = {
    **OFFLINE_ENV,
    # Token ids with their types, which vLLM's own routes don't take.
    "VLLM_PLUGINS": "rlhf",
}


def version_name(owner: str, digest: str) -> str:
    """Return the name of everything that belongs to one version."""
    return f"{owner}-{tag(digest)}"


def url(owner: Owner, digest: str | None = None) -> str:
    """Return the address of one version, or of the one that is served."""
    name = owner.name if digest is None else version_name(owner.name, digest)
    return f"http://{name}.{owner.namespace}.svc:{SERVICE_PORT}"


def rendered_key(version: RewardModelVersion, serving: RewardServing) -> str:
    """Return the name of a rendering: of the version, and of what the user says about its pods but their number."""
    said = serving.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"enabled", "replicas", "autoscaling"}
    )
    text = json.dumps({"version": version.digest, "serving": said}, sort_keys=True)
    return sha256_of(text.encode()).removeprefix("sha256:")[:8]


def render(owner: Owner, version: RewardModelVersion, spec: RewardModelSpec, defaults: OperatorDefaults) -> Rendered:
    """Return a version's pods, to be frozen. Raises TemplateConflict, ValueError."""
    key = rendered_key(version, spec.serving)
    return Rendered(
        f"{version_name(owner.name, version.digest)}-{key}", key, _deployment(owner, version, spec.serving, defaults)
    )


def rendered_config_map(owner: Owner, version: RewardModelVersion, rendered: Rendered) -> dict[str, Any]:
    """Return the record of a rendering: what is applied from now on, whichever operator does it."""
    labels = _labels(owner, version.digest) | {ROLE_LABEL: RENDERED, RENDERED_KEY_LABEL: rendered.key}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, rendered.name, labels),
        "immutable": True,
        "data": {RENDERED_FILE: json.dumps(rendered.deployment, sort_keys=True, separators=(",", ":"))},
    }


def deployment(rendered: Rendered, replicas: int) -> dict[str, Any]:
    """Return a frozen Deployment with its number of pods."""
    frozen = rendered.deployment
    return {**frozen, "spec": {**frozen["spec"], "replicas": replicas}}


def version_service(owner: Owner, digest: str) -> dict[str, Any]:
    """Return the Service of one version alone."""
    return _service(owner, version_name(owner.name, digest), digest, {"prometheus.io/scrape": "false"})


def stable_service(owner: Owner, digest: str) -> dict[str, Any]:
    """Return the Service that consumers know: it leads to the version that is served."""
    return _service(owner, owner.name, digest, {})


def budget(owner: Owner, digest: str) -> dict[str, Any]:
    """Return the PodDisruptionBudget of a version with several pods."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, version_name(owner.name, digest), _labels(owner, digest)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _labels(owner, digest)}},
    }


def scaled_object(owner: Owner, digest: str, serving: RewardServing, prometheus: str) -> dict[str, Any]:
    """Return KEDA's ScaledObject: pods by the texts that wait, as the judges tell Prometheus."""
    if serving.autoscaling is None:
        raise ValueError("serving.autoscaling is not set")
    # Joined by what every Prometheus labels a target with, so that no relabelling has to be known.
    query = (
        f'sum(rlhf_judge_queue_depth * on (job, instance) group_left () rlhf_judge_version_info{{version="{digest}"}})'
    )
    name = version_name(owner.name, digest)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(owner, name, _labels(owner, digest)),
        "spec": {
            "scaleTargetRef": {"name": name},
            "minReplicaCount": serving.autoscaling.min,
            "maxReplicaCount": serving.autoscaling.max,
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": "AverageValue",
                    "metadata": {
                        "serverAddress": prometheus,
                        "query": query,
                        "threshold": f"{serving.autoscaling.target:g}",
                    },
                }
            ],
        },
    }


def _labels(owner: Owner, digest: str) -> dict[str, str]:
    return {owner.label: owner.name, VERSION_LABEL: tag(digest), ROLE_LABEL: SCORER}


def _service(owner: Owner, name: str, digest: str, annotations: dict[str, str]) -> dict[str, Any]:
    meta = metadata(owner, name, _labels(owner, digest))
    meta["annotations"] = {VERSION_ANNOTATION: digest} | annotations
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "selector": _labels(owner, digest),
            "ports": [{"name": "http", "port": SERVICE_PORT, "protocol": "TCP", "targetPort": JUDGE_PORT}],
        },
    }


def _deployment(
    owner: Owner, version: RewardModelVersion, serving: RewardServing, defaults: OperatorDefaults
) -> Manifest:
    labels = _labels(owner, version.digest)
    meta = metadata(owner, version_name(owner.name, version.digest), labels)
    meta["annotations"] = {VERSION_ANNOTATION: version.digest}
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": meta,
        "spec": {
            "revisionHistoryLimit": 2,
            "minReadySeconds": AVAILABLE_SECONDS,
            "progressDeadlineSeconds": round(serving.progress_deadline.seconds),
            "selector": {"matchLabels": labels},
            # Capacity never falls while pods are replaced.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": _pod(owner, version, serving, defaults, labels),
        },
    }


def _pod(
    owner: Owner,
    version: RewardModelVersion,
    serving: RewardServing,
    defaults: OperatorDefaults,
    labels: dict[str, str],
) -> dict[str, Any]:
    claim, folder = _place(version)
    image = serving.image or defaults.server_image
    common: dict[str, Any] = {
        "image": image,
        "imagePullPolicy": defaults.server_image_pull_policy,
        "volumeMounts": [
            *scratch_mounts(),
            {"name": "version", "mountPath": VERSION_PATH, "subPath": folder, "readOnly": True},
        ],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    by_model = version.scorer != ScorerKind.GRADERS.value
    containers = [_judge(version, serving, common, alone=not by_model)]
    if by_model:
        containers.insert(0, _engine(serving, common))
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        # A Service named vllm would set VLLM_PORT to what vLLM can't read.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(),
        "containers": containers,
        "volumes": [*scratch_volumes(), {"name": "version", "persistentVolumeClaim": {"claimName": claim}}],
        **scheduling(serving),
    }
    ours = {
        "metadata": {
            "labels": owner.labels() | labels,
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(JUDGE_PORT),
                "prometheus.io/path": "/metrics",
                "kubectl.kubernetes.io/default-container": JUDGE,
            },
        },
        "spec": pod,
    }
    if serving.template is None:
        return ours
    if by_model:
        # Both are ours: what of the judge may not be overridden may not be of the engine either.
        merge_template(ours, serving.template, main=SERVER, at=TEMPLATE_FIELD)
    return merge_template(ours, serving.template, main=JUDGE, at=TEMPLATE_FIELD)


def _engine(serving: RewardServing, common: Mapping[str, Any]) -> dict[str, Any]:
    devices = gpus(serving.resources)
    args = [
        *("--model", VERSION_PATH),
        *("--served-model-name", "scorer"),
        *("--host", "127.0.0.1"),
        *("--port", str(ENGINE_PORT)),
        *("--runner", "pooling"),
        # vLLM would serve fp32 weights in half precision, and the probes' scores would not come out.
        *("--dtype", "float32"),
    ]
    env = dict(ENGINE_ENV)
    if devices:
        args += ["--tensor-parallel-size", str(devices)]
    else:
        args += ["--enforce-eager"]
        env |= CPU_ENV
    container = {
        "name": SERVER,
        **common,
        "command": ["python", "-m", "vllm.entrypoints.openai.api_server"],
        "args": args,
        "env": environment(env, serving),
    }
    if serving.resources is not None:
        container["resources"] = serving.resources.dump()
    return container


def _judge(
    version: RewardModelVersion, serving: RewardServing, common: Mapping[str, Any], *, alone: bool
) -> dict[str, Any]:
    ready = {"path": "/readyz", "port": JUDGE_PORT}
    resources: Mapping[str, Any] = {name: dict(entries) for name, entries in JUDGE_RESOURCES.items()}
    if alone and serving.resources is not None:
        resources = serving.resources.dump()
    starts = max(1, round(serving.progress_deadline.seconds / PROBE_SECONDS))
    return {
        "name": JUDGE,
        **common,
        "command": ["python", "-m", "rlhf_server.judge"],
        "args": [
            *("--scorer", VERSION_PATH),
            *("--version", version.digest),
            *(() if alone else ("--engine", f"http://127.0.0.1:{ENGINE_PORT}")),
            *("--port", str(JUDGE_PORT)),
        ],
        "env": environment({}, serving),
        "ports": [{"name": "http", "containerPort": JUDGE_PORT, "protocol": "TCP"}],
        "resources": resources,
        # Ready means that every stored probe scores as it did at evaluation.
        "startupProbe": {"httpGet": ready, "periodSeconds": PROBE_SECONDS, "failureThreshold": starts},
        "readinessProbe": {"httpGet": ready, "periodSeconds": PROBE_SECONDS, "timeoutSeconds": 5},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": JUDGE_PORT},
            "periodSeconds": 15,
            "timeoutSeconds": 5,
            "failureThreshold": 4,
        },
    }


def _place(version: RewardModelVersion) -> tuple[str, str]:
    """Return (claim, folder on it) of a version's files."""
    kind, _, rest = (version.ref or "").partition("://")
    claim, _, folder = rest.partition("/")
    if kind != "pvc" or not claim or not folder:
        raise ValueError(f"version {version.digest} lies at {version.ref}, which is no folder of a claim")
    return claim, folder

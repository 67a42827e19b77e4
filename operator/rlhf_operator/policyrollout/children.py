"""The manifests of a revision: texts, Deployment, Service, budget. Pure; golden files hold them.

What is rendered here is frozen with its revision (revisions.py). The pod, route, judge and live settings have their own
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_operator.api import signals
from rlhf_operator.api.policyrollout import Sink
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.names import Owner, metadata
from rlhf_operator.common.resources import DEPLOYMENTS

from .rendering import SERVER, Rendering, labels_of
from .servingpod import pod_template

SERVICE_PORT = 80
AVAILABLE_SECONDS = 2
"""A pod counts this long after it is ready: every proxy and gateway has it among its endpoints by then."""
KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
IDLE_ANNOTATION = "rlhf.dev/idle-since"
DIGEST_ANNOTATION = "rlhf.dev/artifact-digest"
REF_ANNOTATION = "rlhf.dev/artifact-ref"


def render(made: Rendering) -> tuple[Manifest, ...]:
    """Return a revision's objects, to be frozen. Raises TemplateConflict, ValueError."""
    texts = [_texts(made)] if made.texts.files() else []
    return (*texts, _service(made), _deployment(made), _budget(made))


def deployment(frozen: Manifest, replicas: int, idle_since: str | None, sink: Sink | None) -> dict[str, Any]:
    """Return a frozen Deployment with what is not of its revision: number, idleness, where records are written."""
    meta, spec = dict(frozen["metadata"]), {**frozen["spec"], "replicas": replicas}
    if idle_since is not None:
        meta["annotations"] = {**meta.get("annotations", {}), IDLE_ANNOTATION: idle_since}
    if sink is not None and sink.pvc is not None:
        spec["template"] = _with_claim(spec["template"], sink.pvc.claim_name, sink.pvc.path)
    return {**frozen, "metadata": meta, "spec": spec}


def stable_service(owner: Owner, revision: str) -> dict[str, Any]:
    """Return the Service for clients inside the cluster: it leads to the stable revision."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, owner.name, {owner.label: owner.name}),
        "spec": {
            "selector": labels_of(owner, revision),
            "ports": [_port("http", SERVICE_PORT, signals.LIVE_PORT)],
        },
    }


def _texts(made: Rendering) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(made.owner, made.name, labels_of(made.owner, made.revision)),
        "data": made.texts.files(),
    }


def _service(made: Rendering) -> dict[str, Any]:
    labels = labels_of(made.owner, made.revision)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(made.owner, made.name, labels),
        "spec": {
            "selector": labels,
            "ports": [
                _port("http", SERVICE_PORT, signals.LIVE_PORT),
                _port("shadow", signals.SHADOW_PORT, signals.SHADOW_PORT),
            ],
        },
    }


def _port(name: str, port: int, target: int) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": "TCP", "targetPort": target}


def _budget(made: Rendering) -> dict[str, Any]:
    labels = labels_of(made.owner, made.revision)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(made.owner, made.name, labels),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    }


def _deployment(made: Rendering) -> Manifest:
    labels = labels_of(made.owner, made.revision)
    queue = {KUEUE_QUEUE_LABEL: made.spec.serving.queue_name} if made.spec.serving.queue_name else {}
    meta = metadata(made.owner, made.name, labels | queue)
    meta["annotations"] = {DIGEST_ANNOTATION: made.source.digest, REF_ANNOTATION: made.source.ref}
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": meta,
        "spec": {
            "revisionHistoryLimit": 2,
            "minReadySeconds": AVAILABLE_SECONDS,
            # The server wants it longer than minReadySeconds.
            "progressDeadlineSeconds": max(AVAILABLE_SECONDS + 1, round(made.spec.strategy.progress_deadline.seconds)),
            "selector": {"matchLabels": labels},
            # Capacity never falls while pods are replaced.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": pod_template(made, labels),
        },
    }


def _with_claim(template: Mapping[str, Any], claim: str, folder: str) -> dict[str, Any]:
    """Return a pod template with the claim that trajectories are written to."""
    pod = template["spec"]
    mount = {"name": "trajectories", "mountPath": signals.TRAJECTORIES_PATH}
    if folder.strip("/"):
        mount["subPath"] = folder.strip("/")
    # A claim is one volume in a pod: that of the model, when it is the same.
    volume = next((each["name"] for each in pod["volumes"] if _claim_of(each) == claim), "trajectories")
    volumes = list(pod["volumes"])
    if volume == "trajectories":
        volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": claim}})
    containers = [
        {**each, "volumeMounts": [*each["volumeMounts"], mount | {"name": volume}]} if each["name"] == SERVER else each
        for each in pod["containers"]
    ]
    return {**template, "spec": {**pod, "containers": containers, "volumes": volumes}}


def _claim_of(volume: Mapping[str, Any]) -> str | None:
    claim = volume.get("persistentVolumeClaim")
    return claim["claimName"] if claim is not None else None

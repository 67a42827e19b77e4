"""The pod template of each role: train, publish, collect. Pure; the user's template is merged last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_operator.api import plan as api
from rlhf_operator.common.names import Owner
from rlhf_operator.common.podsecurity import container_security, pod_security, scratch_env
from rlhf_operator.common.podtemplate import merge_template
from rlhf_operator.common.scheduling import scheduling

from .spec import RunSpec
from .views import TRAINER
from .volumes import Mounts

TEMPLATE_FIELD = "spec.compute.template"

ONE_SHOT_RESOURCES: Mapping[str, Mapping[str, str]] = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"cpu": "1", "memory": "2Gi"},
}
"""Of pods that read, hash and copy files: a namespace with a quota takes no pod that names none."""


def pod_template(
    owner: Owner,
    spec: RunSpec,
    plan: api.RunPlan,
    *,
    labels: dict[str, str],
    args: Sequence[str],
    mounts: Mounts,
    pull_policy: str,
    env: Sequence[dict[str, Any]] = (),
    training: bool = False,
    avoid_nodes: Sequence[str] = (),
    subdomain: str | None = None,
) -> dict[str, Any]:
    """Return the template of a pod whose container `trainer` runs `python -m rlhf_trainer ARGS…`.

    training: the pod has the GPUs, the resources and the metrics port of a worker.
    avoid_nodes: nodes the scheduler should rather not choose.
    Raises TemplateConflict when the user's template sets what is ours.
    """
    compute = spec.compute
    container: dict[str, Any] = {
        "name": TRAINER,
        "image": plan.image,
        "imagePullPolicy": pull_policy,
        "command": ["python", "-m", "rlhf_trainer"],
        "args": list(args),
        "env": [*env, *scratch_env(), *(variable.dump() for variable in compute.env)],
        "volumeMounts": mounts.mounts,
        "securityContext": container_security(),
        # A pod that dies without a word of its own says the end of its log.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    metadata: dict[str, Any] = {"labels": labels}
    if not training:
        container["resources"] = {name: dict(entries) for name, entries in ONE_SHOT_RESOURCES.items()}
    else:
        container["ports"] = [{"name": "metrics", "containerPort": api.PROGRESS_PORT, "protocol": "TCP"}]
        resources = _resources(spec)
        if resources:
            container["resources"] = resources
        metadata["annotations"] = {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(api.PROGRESS_PORT),
            "prometheus.io/path": "/metrics",
        }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        # A Service named like a variable of ours would overwrite it.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": max(1, round(plan.checkpoints.grace_period_seconds)) if training else 30,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": mounts.volumes,
    }
    if subdomain is not None:
        pod["subdomain"] = subdomain
    pod |= scheduling(compute)
    if avoid_nodes:
        pod["affinity"] = _elsewhere(avoid_nodes)
    ours = {"metadata": metadata, "spec": pod}
    if compute.template is None:
        return ours
    return merge_template(ours, compute.template, main=TRAINER, at=TEMPLATE_FIELD)


def _resources(spec: RunSpec) -> dict[str, Any]:
    compute = spec.compute
    requests = dict(compute.resources.requests) if compute.resources is not None else {}
    limits = dict(compute.resources.limits) if compute.resources is not None else {}
    if compute.gpus_per_worker:
        # Extended resources are not overcommitted: request and limit are the same figure.
        requests[compute.gpu_resource_name] = limits[compute.gpu_resource_name] = str(compute.gpus_per_worker)
    return {name: entries for name, entries in (("requests", requests), ("limits", limits)) if entries}


def _elsewhere(nodes: Sequence[str]) -> dict[str, Any]:
    """Preferred, not required: on a small cluster the bad node may be all there is."""
    others = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": sorted(nodes)}
    preference = {"weight": 100, "preference": {"matchExpressions": [others]}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}

"""Plays Kueue, whose controller can't be had here: makes Workloads, admits with node selectors, evicts."""

from __future__ import annotations

from typing import Any

from opkit.api import Api, Object
from rlhf_operator.common.resources import JOBS, WORKLOADS

CRD: dict[str, Any] = {
    "metadata": {
        "name": WORKLOADS.qualified,
        # The group is protected: without an approval the API server does not serve it.
        "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue/pull/1"},
    },
    "spec": {
        "group": WORKLOADS.group,
        "names": {"kind": WORKLOADS.kind, "plural": WORKLOADS.plural, "singular": "workload"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": WORKLOADS.version,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def take(api: Api, job: Object, message: str) -> str:
    """Put a Job into its queue: a Workload without quota. Returns its name."""
    meta = job["metadata"]
    name = f"job-{meta['name']}"
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
    workload = {"metadata": {"name": name, "namespace": meta["namespace"], "ownerReferences": [owner]}, "spec": {}}
    api.create(WORKLOADS, workload)
    _status(api, meta["namespace"], name, [("QuotaReserved", "False", "Pending", message)])
    return name


def admit(api: Api, job: Object, workload: str, node_selector: dict[str, str]) -> None:
    """Give it quota: inject the flavour's node selector, then let it run."""
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    conditions = [("QuotaReserved", "True", "QuotaReserved", ""), ("Admitted", "True", "Admitted", "")]
    _status(api, namespace, workload, conditions)
    template = {"spec": {"nodeSelector": node_selector}}
    api.patch(JOBS, namespace, name, {"spec": {"template": template, "suspend": False}})


def evict(api: Api, job: Object, workload: str, message: str) -> None:
    """Take the quota back: suspend it."""
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    conditions = [("QuotaReserved", "False", "Pending", message), ("Evicted", "True", "Preempted", message)]
    _status(api, namespace, workload, conditions)
    api.patch(JOBS, namespace, name, {"spec": {"suspend": True}})


def _status(api: Api, namespace: str, name: str, conditions: list[tuple[str, str, str, str]]) -> None:
    entries = [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, status, reason, message in conditions
    ]
    api.patch(WORKLOADS, namespace, name, {"status": {"conditions": entries}}, "status")

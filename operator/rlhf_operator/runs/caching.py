"""What is cached of the objects that a run is made of, and what is left out of them."""

from __future__ import annotations

from typing import Any

from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.reader import Child
from rlhf_operator.common.resources import CONFIGMAPS, JOBS, PODS, PVCS, SERVICES, WORKLOADS


def _without_template(job: dict[str, Any]) -> None:
    """A Job is made once and never compared; its pods' template is most of it."""
    job["spec"].pop("template", None)


def _without_spec(pod: dict[str, Any]) -> None:
    """All that is asked of a pod's spec is where it runs."""
    pod["spec"] = {"nodeName": pod["spec"]["nodeName"]} if "nodeName" in pod["spec"] else {}


def _queues(obj: Manifest) -> bool:
    """Whether Kueue has, or will have, a Workload for this object."""
    queue = ((obj.get("spec") or {}).get("compute") or {}).get("queueName")
    return queue is not None and "completionTime" not in (obj.get("status") or {})


RUN_CHILDREN = (
    Child(JOBS, trim=_without_template),
    Child(PODS, trim=_without_spec),
    Child(CONFIGMAPS),
    Child(SERVICES),
    Child(PVCS),
    # Kueue labels Workloads as it likes, and may be absent.
    Child(WORKLOADS, selector=None, optional=True, sought_by=_queues),
)
"""The same objects for every kind: each cache is filled once."""

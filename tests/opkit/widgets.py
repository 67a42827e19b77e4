"""Kinds made for tests, and an operator for them: the runtime with the smallest controller that uses all of it.

`python -m opkit.widgets` runs it; WIDGET_KINDS says which of the kinds it serves.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rlhf_operator.common.intents import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    OWNER_KIND_LABEL,
    OWNER_NAME_LABEL,
    Delete,
    Event,
    Manifest,
    Plan,
    WriteFailure,
)
from rlhf_operator.common.reader import Child, Reader
from rlhf_operator.common.resources import CONFIGMAPS, SERVICES, WORKLOADS, Resource
from rlhf_operator.errors import OperatorError
from rlhf_operator.kube.credentials import load_credentials
from rlhf_operator.runtime import logs, shell
from rlhf_operator.runtime.operator import Operator
from rlhf_operator.settings import load_settings

GROUP = "runtime.test.rlhf.dev"
WIDGETS = Resource(GROUP, "v1", "Widget", "widgets")
GADGETS = Resource(GROUP, "v1", "Gadget", "gadgets")
# Installed by one test only: it must be absent before.
LATECOMERS = Resource(GROUP, "v1", "Latecomer", "latecomers")
KINDS = {resource.kind: resource for resource in (WIDGETS, GADGETS, LATECOMERS)}


def crd(resource: Resource) -> dict[str, Any]:
    """A CRD that takes everything."""
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    names = {"kind": resource.kind, "plural": resource.plural, "singular": resource.kind.lower()}
    return {
        "metadata": {"name": resource.qualified},
        "spec": {"group": resource.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def widget(namespace: str, name: str = "w", **spec: Any) -> dict[str, Any]:
    """An object of any of the kinds."""
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"value": "one", "count": 1, **spec}}


@dataclass(frozen=True)
class Observed:
    obj: Manifest
    configmaps: Sequence[Manifest]


class WidgetController:
    """`count` ConfigMaps that hold `value`, and one that is made once.

    spec: {value, count, service: bool, labels: {} of the ConfigMaps, wakeSeconds, deleteUid: {name, uid},
    later: bool (a ConfigMap more, made once the status is on record)}
    """

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.children = (Child(CONFIGMAPS), Child(SERVICES), Child(WORKLOADS, selector=None, optional=True))

    async def observe(self, obj: Manifest, reader: Reader) -> Observed:
        metadata = obj["metadata"]
        return Observed(obj, reader.owned(CONFIGMAPS, metadata["namespace"], metadata["uid"]))

    def reconcile(self, observed: Observed, now: datetime) -> Plan:
        spec = observed.obj["spec"]
        name = observed.obj["metadata"]["name"]
        wanted = [f"{name}-{i}" for i in range(spec.get("count", 1))]
        services = (self._child("Service", name, {"spec": service_spec()}, observed),) if spec.get("service") else ()
        maps = [self._child("ConfigMap", child, {"data": {"value": spec["value"]}}, observed) for child in wanted]
        if spec.get("later") and (observed.obj.get("status") or {}).get("phase") == "Ready":
            wanted.append(f"{name}-later")
            maps.append(self._child("ConfigMap", f"{name}-later", {"data": {"value": spec["value"]}}, observed))
        surplus = [c for c in observed.configmaps if c["metadata"]["name"] not in (*wanted, f"{name}-once")]
        named = spec.get("deleteUid")
        namespace = observed.obj["metadata"]["namespace"]
        deletes = [
            Delete(CONFIGMAPS, namespace, c["metadata"]["name"], c["metadata"]["uid"])
            for c in surplus
            if not c["metadata"].get("deletionTimestamp")
        ]
        if named:
            deletes.append(Delete(CONFIGMAPS, namespace, named["name"], named["uid"]))
        return Plan(
            apply=(*maps, *services),
            create=(self._child("ConfigMap", f"{name}-once", {"data": {"first": spec["value"]}}, observed),),
            delete=tuple(deletes),
            status={"value": spec["value"], "phase": "Ready", "configMaps": len(wanted)},
            events=(Event("Normal", "Made", f"made for {spec['value']}"),),
            wake_at=now + timedelta(seconds=spec["wakeSeconds"]) if "wakeSeconds" in spec else None,
        )

    def write_failed(self, observed: Observed, now: datetime, failure: WriteFailure) -> Plan:
        return Plan(
            status={"phase": "Failed", "message": f"{failure.reason}: {failure.message}"},
            events=(Event("Warning", failure.reason, failure.message),),
        )

    def phase(self, obj: Mapping[str, Any]) -> str:
        return str((obj.get("status") or {}).get("phase", ""))

    def _child(self, kind: str, name: str, body: Mapping[str, Any], observed: Observed) -> Manifest:
        owner = observed.obj["metadata"]
        extra = observed.obj["spec"].get("labels") or {}
        return {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": owner["namespace"],
                "labels": {
                    **extra,
                    MANAGED_BY_LABEL: MANAGED_BY,
                    OWNER_KIND_LABEL: self.resource.kind,
                    OWNER_NAME_LABEL: owner["name"],
                },
                "ownerReferences": [
                    {
                        "apiVersion": self.resource.api_version,
                        "kind": self.resource.kind,
                        "name": owner["name"],
                        "uid": owner["uid"],
                        "controller": True,
                        "blockOwnerDeletion": False,
                    }
                ],
            },
            **body,
        }


def service_spec() -> dict[str, Any]:
    """A headless Service with one port, its protocol left to the server's default."""
    return {"clusterIP": "None", "selector": {"app": "widget"}, "ports": [{"name": "http", "port": 80}]}


def main() -> int:
    """As the operator's own main, with other controllers."""
    kinds = os.environ.get("WIDGET_KINDS", "Widget").split(",")
    logs.set_up("INFO")
    controllers = [WidgetController(KINDS[kind]) for kind in kinds]
    try:
        settings = load_settings()
        logs.set_up(settings.log_level)
        credentials = load_credentials(settings.kubeconfig)
        asyncio.run(shell.run(Operator(settings, credentials, controllers), credentials))
    except OperatorError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

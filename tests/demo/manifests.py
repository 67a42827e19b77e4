"""Manifests as a user applies them, and what a cluster's pods need beside: templates that mount Python. No requests."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from demo.cluster import Object
from demo.install import Place


def load(paths: Sequence[Path]) -> list[Object]:
    """The objects in YAML files, in their order."""
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [dict(found) for text in texts for found in yaml.safe_load_all(text) if found]


def dressed(document: Object, place: Place) -> Object:
    """The object for this cluster: pods find Python, and its host name is that of no other namespace."""
    made = copy.deepcopy(document)
    spec: dict[str, Any] = made.get("spec") or {}
    server = place.server_template
    match made["kind"]:
        case "RLHFJob":
            _put(spec, "compute", place.template)
        case "RewardModel":
            _put(spec, "compute", place.template)
            _put(spec, "serving", server)
        case "PolicyRollout":
            _put(spec, "serving", only(server, "server"))
            _put(spec, "judge", only(server, "judge"))
            spec["route"]["hostnames"] = [host(made["metadata"]["name"], place.cluster.namespace)]
    return made


def host(rollout: str, namespace: str) -> str:
    """The host name by which a rollout's users ask."""
    return f"{rollout}.{namespace}.example.com"


def only(template: Object | None, *containers: str) -> Object | None:
    """A pod template for some of its containers: one that a pod does not have would be added to it."""
    if template is None:
        return None
    pod = template["spec"]
    return {
        **template,
        "spec": {**pod, "containers": [each for each in pod["containers"] if each["name"] in containers]},
    }


def _put(spec: dict[str, Any], field: str, template: Object | None) -> None:
    if template is not None:
        spec.setdefault(field, {})["template"] = template


def digest(documents: Sequence[Mapping[str, Any]], *more: str) -> str:
    """Twelve hex digits that change with the objects and with whatever else is named."""
    text = json.dumps([list(documents), more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

"""A build of the server that fails, as pods get it: a ConfigMap whose `sitecustomize.py` Python loads by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BUILD = "support-faulty-build"
"""The ConfigMap of examples/loop: half of the answers are errors."""
_MOUNT = "/fault"


def faulty_serving(serving: Mapping[str, Any], config_map: str = BUILD) -> dict[str, Any]:
    """Serving settings with the fault mounted beside what the template mounts already."""
    template = serving.get("template") or {"spec": {"containers": [{"name": "server"}]}}
    pod = template["spec"]
    (server,) = pod["containers"]
    mount = {"name": "fault", "mountPath": _MOUNT, "readOnly": True}
    volume = {"name": "fault", "configMap": {"name": config_map}}
    server = {**server, "volumeMounts": [*server.get("volumeMounts", ()), mount]}
    pod = {**pod, "containers": [server], "volumes": [*pod.get("volumes", ()), volume]}
    return {"env": [{"name": "PYTHONPATH", "value": _MOUNT}], "template": {**template, "spec": pod}}

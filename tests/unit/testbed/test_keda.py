"""KEDA's manifests as the bed applies them; that they work is shown by the test of autoscaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.images import BuiltImage
from testbed.keda import manifests
from testbed.versions import AUTOSCALING, TOOLS


def deployment(name: str, command: str) -> dict[str, Any]:
    container = {
        "name": name,
        "image": f"registry.example/{name}:latest",
        "imagePullPolicy": "Always",
        "command": [f"/{command}"],
        "args": ["--zap-log-level=info"],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}, "initialDelaySeconds": 20},
    }
    return {"kind": "Deployment", "spec": {"template": {"spec": {"containers": [container]}}}}


def test_deployments_run_the_beds_images_and_wait_for_no_webhook() -> None:
    images = {name: BuiltImage(f"localhost/{name}:1", Path(f"{name}.tar")) for name in AUTOSCALING}
    rendered = [
        {"kind": "Namespace", "metadata": {"name": "keda"}},
        deployment("keda-operator", "keda"),
        deployment("keda-metrics-apiserver", "keda-adapter"),
    ]
    namespace, *deployments = manifests(rendered, images)
    assert namespace == {"kind": "Namespace", "metadata": {"name": "keda"}}
    operator, adapter = (each["spec"]["template"]["spec"]["containers"][0] for each in deployments)
    assert (operator["image"], adapter["image"]) == ("localhost/keda:1", "localhost/keda-adapter:1")
    assert {operator["imagePullPolicy"], adapter["imagePullPolicy"]} == {"IfNotPresent"}
    assert "--enable-webhook-patching=false" in operator["args"]
    assert adapter["args"] == ["--zap-log-level=info"]
    assert operator["readinessProbe"]["httpGet"]["port"] == 8081


def test_both_binaries_are_of_one_module_so_that_one_build_makes_them() -> None:
    builds = [TOOLS[name].build for name in AUTOSCALING]
    assert len({(build.module, build.version, build.ldflags, build.style) for build in builds}) == 1

"""KEDA in the bed: operator and metrics adapter, from the manifests of its own module, without admission webhooks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed import gobuild
from testbed.containerd import Ctr
from testbed.images import BuiltImage, ImageStore
from testbed.kubeapi import Kubectl
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import AUTOSCALING, TOOLS

NAMESPACE = "keda"
_PARTS = ("crd", "general", "rbac", "service_account", "manager", "metrics-server")
_TIMEOUT_SECONDS = 180


def install(paths: Paths, binaries: Mapping[str, Path], progress: Progress) -> None:
    """Install both, and wait until the API server gets metrics from the adapter."""
    store = ImageStore(paths, progress)
    images = {name: store.keda(binaries[name]) for name in AUTOSCALING}
    Ctr(paths).import_images(list(images.values()), progress)
    progress.say("installing KEDA")
    module = TOOLS["keda"].build
    source = gobuild.module_source(module.module, module.version, paths, progress)
    kubectl = Kubectl(binaries["kubectl"], paths.kubeconfig)
    kubectl.apply(manifests(_rendered(kubectl, source / "config"), images))
    for name in ("keda-operator", "keda-metrics-apiserver"):
        rollout = ("rollout", "status", f"deployment/{name}", f"--timeout={_TIMEOUT_SECONDS}s")
        kubectl.run("-n", NAMESPACE, *rollout)
    service = "apiservice/v1beta1.external.metrics.k8s.io"
    kubectl.run("wait", "--for=condition=Available", service, f"--timeout={_TIMEOUT_SECONDS}s")
    progress.say("KEDA is ready")


def _rendered(kubectl: Kubectl, config: Path) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="keda-config-") as folder:
        for part in _PARTS:
            shutil.copytree(config / part, Path(folder) / part, copy_function=shutil.copyfile)
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump({"resources": list(_PARTS)}))
        return list(yaml.safe_load_all(kubectl.run("kustomize", folder)))


def manifests(rendered: list[dict[str, Any]], images: Mapping[str, BuiltImage]) -> list[dict[str, Any]]:
    """The module's manifests with the bed's images; both are looked at each second, and ask for little."""
    changed = []
    for manifest in rendered:
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            container |= {"image": images[container["command"][0].lstrip("/")].name, "imagePullPolicy": "IfNotPresent"}
            container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1}
            container["resources"] = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
            if container["name"] == "keda-operator":
                # There are none to patch.
                container["args"].append("--enable-webhook-patching=false")
        changed.append(manifest)
    return changed

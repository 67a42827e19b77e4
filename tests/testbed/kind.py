"""The node profile by kind, where a container engine runs: the same volumes, images, gateway and Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed import gateway, monitoring, oci, podenv, serverenv, volumes
from testbed.binaries import require
from testbed.dockerfiles import CHECKOUT, Dockerfile, content_key
from testbed.errors import BedError
from testbed.images import REGISTRY, base_packages, host_distribution, key
from testbed.kubeapi import Kubectl
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import ENVOY_GATEWAY, PROMETHEUS

CONFIG = CHECKOUT / "kind-config.yaml"
_ENGINES = ("docker", "podman")
_LOCAL_PATH_NAMESPACE = "local-path-storage"
_TIMEOUT_SECONDS = 900


def engine() -> str:
    """The container engine that answers. Raises BedError where none does."""
    for name in _ENGINES:
        if shutil.which(name):
            answer = subprocess.run([name, "info"], capture_output=True, timeout=60, check=False)
            if answer.returncode == 0:
                return name
    raise BedError(
        "TESTBED=kind needs a running container engine (docker or podman); start it, or unset TESTBED as root"
    )


def cluster_config(text: str, folders: Sequence[Path]) -> dict[str, Any]:
    """kind-config.yaml with the host's folders mounted in the node at their own paths."""
    config = yaml.safe_load(text)
    if not isinstance(config, dict) or config.get("kind") != "Cluster" or not config.get("nodes"):
        raise BedError(f"{CONFIG} is not a kind cluster configuration with nodes")
    for node in config["nodes"]:
        mounts = [{"hostPath": str(folder), "containerPath": str(folder)} for folder in folders]
        node["extraMounts"] = [*node.get("extraMounts", []), *mounts]
    return config


class Kind:
    """One kind cluster, named as in kind-config.yaml."""

    def __init__(self, paths: Paths, progress: Progress) -> None:
        self._paths = paths
        self._progress = progress
        self._text = CONFIG.read_text()
        self.name = str(yaml.safe_load(self._text)["name"])
        self.kubeconfig = paths.root / "kind" / "kubeconfig"

    def up(self) -> Path:
        """Create the cluster unless it is there, and install what the demo needs; returns the kubeconfig."""
        engine()
        kind = self._kind()
        if self.name not in oci.run([kind, "get", "clusters"]).split():
            podenv.prepare_shared(self._paths.shared)
            self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
            rendered = self.kubeconfig.parent / "config.yaml"
            serverenv.folder(self._paths).mkdir(parents=True, exist_ok=True)
            folders = [*podenv.host_folders(), self._paths.shared, serverenv.folder(self._paths)]
            rendered.write_text(yaml.safe_dump(cluster_config(self._text, folders)))
            self._progress.say("creating the kind cluster")
            create = [kind, "create", "cluster", "--config", str(rendered), "--kubeconfig", str(self.kubeconfig)]
            oci.run([*create, "--wait", "180s"], timeout_seconds=_TIMEOUT_SECONDS)
        binaries = require(["kubectl", "helm"], self._paths, self._progress)
        kubectl = Kubectl(binaries["kubectl"], self.kubeconfig)
        share_volumes(kubectl)
        kubectl.apply(monitoring.manifests(f"docker.io/prom/prometheus:v{PROMETHEUS}"))
        chart = ["oci://docker.io/envoyproxy/gateway-helm", "--version", f"v{ENVOY_GATEWAY}"]
        helm = [str(binaries["helm"]), "--kubeconfig", str(self.kubeconfig), "upgrade", "--install", "envoy-gateway"]
        target = ["--namespace", gateway.SYSTEM_NAMESPACE, "--create-namespace", "--wait", "--timeout", "300s"]
        oci.run([*helm, *chart, *target], timeout_seconds=_TIMEOUT_SECONDS)
        kubectl.apply(gateway.manifests(None))
        self._progress.say("the kind cluster is up")
        return self.kubeconfig

    def down(self) -> None:
        """Delete the cluster; nothing when there is none."""
        if self.kubeconfig.parent.exists():
            oci.run([self._kind(), "delete", "cluster", "--name", self.name], timeout_seconds=_TIMEOUT_SECONDS)
            shutil.rmtree(self.kubeconfig.parent)
            self._progress.say("the kind cluster is deleted")

    def load(self, dockerfile: Dockerfile) -> str:
        """Build one of our Dockerfiles with the engine and load it; returns the image's name for pods."""
        name = f"{REGISTRY}/{dockerfile.name}:{content_key(dockerfile, 'default')}"
        return self._build_and_load(name, ["-f", str(CHECKOUT / dockerfile.path), str(CHECKOUT)], None)

    def load_base(self) -> str:
        """The base image for pods that mount the host's Python, from the engine's registry."""
        text = base_dockerfile(Path("/etc/os-release").read_text(), Path(sys.base_prefix))
        return self._build_and_load(f"{REGISTRY}/python-base:{key(text)}", ["-"], text)

    def _build_and_load(self, name: str, source: Sequence[str], stdin: str | None) -> str:
        program = engine()
        self._progress.say(f"building {name} with {program}")
        done = subprocess.run(
            [program, "build", "-t", name, *source],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS * 4,
            check=False,
        )
        if done.returncode != 0:
            raise BedError(f"`{program} build -t {name}` failed:\n{done.stderr[-2000:]}")
        oci.run([self._kind(), "load", "docker-image", name, "--name", self.name], timeout_seconds=_TIMEOUT_SECONDS)
        return name

    def _kind(self) -> str:
        found = shutil.which("kind")
        if found is None:
            raise BedError("TESTBED=kind needs the kind command on PATH: https://kind.sigs.k8s.io")
        return found


def base_dockerfile(os_release: str, base_prefix: Path) -> str:
    """The base as a Dockerfile, of the host's distribution so that mounted binaries find their C library."""
    distribution = host_distribution(os_release)
    family = "ubuntu" if "ubuntu" in distribution.mirror else "debian"
    packages = " ".join(base_packages(base_prefix))
    return (
        f"FROM docker.io/library/{family}:{distribution.suite}\n"
        f"RUN apt-get update && apt-get install -y --no-install-recommends {packages} && "
        "rm -rf /var/lib/apt/lists/* && chmod 755 /root\n"
    )


def share_volumes(kubectl: Kubectl) -> None:
    """Let kind's provisioner give ReadWriteMany volumes: on one node, a folder is shared by nature."""
    config = json.dumps({"sharedFileSystemPath": "/var/local-path-provisioner"})
    patch = json.dumps({"data": {"config.json": config}})
    kubectl.run("-n", _LOCAL_PATH_NAMESPACE, "patch", "configmap", "local-path-config", "-p", patch)
    kubectl.run("-n", _LOCAL_PATH_NAMESPACE, "rollout", "restart", "deployment/local-path-provisioner")
    classes = kubectl.run("get", "storageclass", "-o", "name").split()
    if f"storageclass.storage.k8s.io/{volumes.STORAGE_CLASS}" not in classes:
        raise BedError(
            f"the kind cluster has no StorageClass {volumes.STORAGE_CLASS}; use a kind release that brings one"
        )

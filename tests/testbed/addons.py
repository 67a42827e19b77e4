"""What runs in the node beside the bare cluster: volumes, DNS, the base image for pods, Prometheus."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testbed import dns, monitoring, volumes
from testbed.containerd import Ctr
from testbed.images import ImageStore
from testbed.kubeapi import Kubectl
from testbed.paths import Paths
from testbed.processes import Daemons
from testbed.progress import Progress, wait_until
from testbed.state import BedState

_TIMEOUT_SECONDS = 180


def install(paths: Paths, state: BedState, daemons: Daemons, binaries: Mapping[str, Path], progress: Progress) -> None:
    """Install the addons side by side; returns when all of them serve."""
    _install_dns(paths, binaries, progress)
    start_volumes(paths, state, daemons)
    with ThreadPoolExecutor() as pool:
        tasks = [
            pool.submit(_import_base, paths, progress),
            pool.submit(_install_monitoring, paths, binaries, progress),
            pool.submit(_await_dns, paths, progress),
        ]
        for task in tasks:
            task.result()


def _install_dns(paths: Paths, binaries: Mapping[str, Path], progress: Progress) -> None:
    coredns = ImageStore(paths, progress).coredns(binaries["coredns"])
    Ctr(paths).import_images([coredns], progress)
    manifests = [volumes.storage_class(), *dns.manifests(coredns.name)]
    Kubectl(binaries["kubectl"], paths.kubeconfig).apply(manifests)


def _await_dns(paths: Paths, progress: Progress) -> None:
    wait_until("an answer of the cluster's DNS", dns.answers, _TIMEOUT_SECONDS, hint=str(paths.logs))
    progress.say("DNS answers")


def _import_base(paths: Paths, progress: Progress) -> None:
    Ctr(paths).import_images([ImageStore(paths, progress).base()], progress)


def _install_monitoring(paths: Paths, binaries: Mapping[str, Path], progress: Progress) -> None:
    image = ImageStore(paths, progress).prometheus(binaries["prometheus"])
    Ctr(paths).import_images([image], progress)
    kubectl = Kubectl(binaries["kubectl"], paths.kubeconfig)
    kubectl.apply(monitoring.manifests(image.name))
    rollout = ("rollout", "status", "deployment/prometheus", f"--timeout={_TIMEOUT_SECONDS}s")
    kubectl.run("-n", monitoring.NAMESPACE, *rollout)
    progress.say("Prometheus is ready")


def start_volumes(paths: Paths, state: BedState, daemons: Daemons) -> None:
    """Start the provisioner of the default StorageClass."""
    paths.volumes.mkdir(parents=True, exist_ok=True)
    arguments = [str(state.ports.api), str(paths.pki), str(paths.volumes)]
    daemons.start("volumes", [sys.executable, "-m", "testbed.volumes", *arguments])

"""What runs in the node beside the bare cluster: volumes, DNS, the base image for pods."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from testbed import dns, volumes
from testbed.containerd import Ctr
from testbed.images import ImageStore
from testbed.kubeapi import Kubectl
from testbed.paths import Paths
from testbed.processes import Daemons
from testbed.progress import Progress, wait_until
from testbed.state import BedState

_TIMEOUT_SECONDS = 180


def install(
    paths: Paths, state: BedState, daemons: Daemons, binaries: Mapping[str, Path], progress: Progress
) -> None:
    """Install the addons and wait until DNS answers."""
    kubectl = Kubectl(binaries["kubectl"], paths.kubeconfig)
    store = ImageStore(paths, progress)
    coredns = store.coredns(binaries["coredns"])
    Ctr(paths).import_images([coredns], progress)
    kubectl.apply([volumes.storage_class(), *dns.manifests(coredns.name)])
    start_volumes(paths, state, daemons)
    Ctr(paths).import_images([store.base()], progress)
    wait_until("an answer of the cluster's DNS", dns.answers, _TIMEOUT_SECONDS, hint=str(paths.logs))
    progress.say("DNS answers")


def start_volumes(paths: Paths, state: BedState, daemons: Daemons) -> None:
    """Start the provisioner of the default StorageClass."""
    paths.volumes.mkdir(parents=True, exist_ok=True)
    arguments = [str(state.ports.api), str(paths.pki), str(paths.volumes)]
    daemons.start("volumes", [sys.executable, "-m", "testbed.volumes", *arguments])

"""Takes a bed down: its own daemons by identity, then what the node left in the kernel, then its state folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

from testbed import host, kernel
from testbed.containerd import Ctr, shims
from testbed.errors import InvalidStateError
from testbed.paths import Paths
from testbed.processes import Daemons
from testbed.progress import Progress, wait_until

# What acts on others goes first.
_NODE_DAEMONS = ("kwok", "volumes", "kubelet", "kube-proxy", "kube-scheduler")
_CONTROL_PLANE_DAEMONS = ("kube-controller-manager", "kube-apiserver", "etcd")


def down(paths: Paths, progress: Progress) -> None:
    """Leave nothing behind. Works on a healthy bed, on half of one, and on none.

    Raises InvalidStateError when something still is mounted below the state folder: deleting would reach into it.
    """
    if not paths.bed.exists():
        return
    node_down(paths, progress)
    daemons = Daemons(paths.daemons, paths.logs)
    for name in (*_CONTROL_PLANE_DAEMONS, *(record.name for record in daemons.records())):
        daemons.stop(name)
    _remove_state(paths)
    progress.say("the bed is down")


def node_down(paths: Paths, progress: Progress) -> None:
    """Take only the node down: its daemons, pods and traces in the kernel. The control plane goes on."""
    daemons = Daemons(paths.daemons, paths.logs)
    had_node = daemons.get("containerd") is not None or (paths.bed / "kernel.json").exists()
    for name in _NODE_DAEMONS:
        daemons.stop(name)
    if had_node:
        _stop_pods(paths, daemons, progress)
        _clean_kernel(paths)


def _stop_pods(paths: Paths, daemons: Daemons, progress: Progress) -> None:
    """End the pods' processes, let containerd forget them, stop it, and end shims that it left."""
    uids = kernel.pod_uids(paths.bed / "kubelet")
    killed = kernel.kill_pods(uids)
    progress.say(f"ended {killed} processes of {len(uids)} pods")
    if daemons.running("containerd"):
        ctr = Ctr(paths)
        ctr.remove_containers()
        # The store outlives the bed: without this, every change of the operator would stay in it for ever.
        ctr.remove_images_except(list(paths.images.glob("*.tar")))
    daemons.stop("containerd")
    for pid in shims(paths):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # Again: a restart policy may have been faster than the first round.
    kernel.kill_pods(uids)


def _clean_kernel(paths: Paths) -> None:
    kernel.unmount([paths.bed, paths.containerd])
    kernel.remove_network()
    kernel.remove_rules()
    wait_until("the end of the pods' shims", lambda: not shims(paths), 10)
    kernel.remove_pod_cgroups()
    kernel.remove_log_links(paths.bed / "podlogs")
    kernel.remove_files_elsewhere()
    host.restore_kernel(paths.bed / "kernel.json")


def _remove_state(paths: Paths) -> None:
    with open("/proc/self/mounts") as table:
        left = kernel.mounts_below([paths.bed], table.read())
    if left:
        raise InvalidStateError(f"still mounted, so the state folder is kept: {', '.join(left)}; unmount and repeat")
    shutil.rmtree(paths.bed)

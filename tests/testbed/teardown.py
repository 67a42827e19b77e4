"""Takes a bed down: its own daemons by identity, then what the node left in the kernel, then its state folder."""

from __future__ import annotations

import shutil

from testbed.paths import Paths
from testbed.processes import Daemons
from testbed.progress import Progress

# What depends on something else goes first.
STOP_ORDER = (
    "prometheus",
    "kwok",
    "kubelet",
    "kube-proxy",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-apiserver",
    "etcd",
)


def down(paths: Paths, progress: Progress) -> None:
    """Leave nothing running. Works on a healthy bed, on half of one, and on none."""
    daemons = Daemons(paths.daemons, paths.logs)
    for name in STOP_ORDER:
        daemons.stop(name)
    for record in daemons.records():
        daemons.stop(record.name)
    if paths.bed.exists():
        shutil.rmtree(paths.bed)
        progress.say("the bed is down")

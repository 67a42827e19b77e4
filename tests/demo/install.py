"""Brings up the cluster and installs the operator in it, as a pod, by its Helm chart. Run again, it changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import testbed
from demo.cluster import Cluster, Object
from demo.voice import Voice
from testbed import podenv
from testbed.binaries import require
from testbed.progress import Progress

CHART = Path(__file__).resolve().parents[2] / "charts" / "rlhf-operator"
SYSTEM_NAMESPACE = "rlhf-system"
RELEASE = "rlhf-operator"
PROGRESS_SECONDS = 2
"""How often the operator asks a running job: a demo is watched."""


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster with the operator in it."""

    cluster: Cluster
    loader_image: str
    """An image with Python for the pod that moves files."""
    template: Object | None
    """Pod template that mounts the Python environment; None where the trainer image holds it."""

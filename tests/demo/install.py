"""Brings up the cluster and installs the operator in it, as a pod, by its Helm chart. Run again, it changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

import testbed
from demo.cluster import Cluster, ClusterError, Object
from demo.voice import Voice
from testbed import podenv
from testbed.binaries import require
from testbed.dockerfiles import OPERATOR, Builder
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


def everything(namespace: str, voice: Voice) -> Place:
    """A running cluster with the operator in it and the namespace made. Raises BedError, ClusterError."""
    voice.step("a Kubernetes cluster (the first time its parts are downloaded or built, which takes minutes)")
    progress = Progress()
    bed = testbed.ensure(testbed.Profile.NODE, progress)
    helm = require(["helm"], bed.paths, progress)["helm"]
    cluster = Cluster(bed.kubectl_binary, helm, bed.kubeconfig, namespace)
    voice.say(f"kubeconfig: {bed.kubeconfig}")

    voice.step("the operator, as a pod, by its Helm chart")
    image, template = _images(bed, progress)
    install_operator(cluster, image)
    cluster.ensure_namespace()
    return Place(cluster, image, template)


def _images(bed: testbed.Bed, progress: Progress) -> tuple[str, Object | None]:
    """The operator's image, and the template by which training pods find Python.

    On a cluster that is not the bed's own, images are named by RLHF_OPERATOR_IMAGE and come from a registry, or were
    loaded before; training pods then use the trainer image.
    """
    if bed.own:
        image = Builder(bed.paths, progress).load(OPERATOR)
        return image, podenv.pod_environment(bed.paths, progress).template()
    return os.environ.get("RLHF_OPERATOR_IMAGE") or _chart_image(), None


def _chart_image() -> str:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    return f"{values['image']['repository']}:{chart['appVersion']}"


def install_operator(cluster: Cluster, image: str, *settings: str) -> None:
    """Install or upgrade the release, and wait until the operator is ready."""
    repository, _, tag = image.rpartition(":")
    chosen = [
        f"image.repository={repository}",
        f"image.tag={tag}",
        *([f"trainer.image.repository={name[0]}", f"trainer.image.tag={name[2]}"] if (name := _trainer()) else []),
    ]
    flags = [flag for setting in chosen for flag in ("--set-string", setting)]
    flags += [
        flag for setting in (f"progressIntervalSeconds={PROGRESS_SECONDS}", *settings) for flag in ("--set", setting)
    ]
    target = ["--namespace", SYSTEM_NAMESPACE, "--create-namespace"]
    try:
        cluster.run_helm("upgrade", "--install", RELEASE, str(CHART), *target, *flags, "--wait", "--timeout", "3m")
    except ClusterError as error:
        system = replace(cluster, namespace=SYSTEM_NAMESPACE)
        raise ClusterError(f"{error}\n{system.tell(f'app.kubernetes.io/instance={RELEASE}')}") from error


def _trainer() -> tuple[str, str, str] | None:
    """The trainer image that RLHF_TRAINER_IMAGE names, split at its tag."""
    name = os.environ.get("RLHF_TRAINER_IMAGE", "")
    return name.rpartition(":") if name else None

"""Brings up the cluster and installs the operator in it, as a pod, by its Helm chart. Run again, it changes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import testbed
from demo.cluster import Cluster, ClusterError, Object
from demo.voice import Voice
from testbed import provision
from testbed.binaries import require
from testbed.dockerfiles import OPERATOR
from testbed.progress import Progress

CHART = Path(__file__).resolve().parents[2] / "charts" / "rlhf-operator"
SYSTEM_NAMESPACE = "rlhf-system"
RELEASE = "rlhf-operator"
_TARGET = ("--namespace", SYSTEM_NAMESPACE)
PROGRESS_SECONDS = 2
"""How often the operator asks a running job: a demo is watched."""
PROMETHEUS = os.environ.get("DEMO_PROMETHEUS", "http://prometheus.monitoring.svc:9090")
"""Where rollouts are measured; another cluster's may be elsewhere."""
SCRAPE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster with the operator in it."""

    cluster: Cluster
    loader_image: str
    """An image with Python for the pod that moves files."""
    template: Object | None
    """Pod template that mounts the Python environment; None where the trainer image holds it."""
    server_template: Object | None = None
    """The same for serving pods and judges, which run vLLM; None, too, where nothing is to be served."""


def everything(namespace: str, voice: Voice, *, traffic: bool = False) -> Place:
    """A running cluster with the operator in it and the namespace made. Raises BedError, ClusterError.

    traffic: also what policies need to be served to users: a gateway, and vLLM for serving pods.
    """
    voice.step("a Kubernetes cluster (the first time its parts are downloaded or built, which takes minutes)")
    progress = Progress()
    bed = testbed.ensure(testbed.Profile.NODE, progress, gateway=traffic)
    helm = require(["helm"], bed.paths, progress)["helm"]
    cluster = Cluster(bed.kubectl_binary, helm, bed.kubeconfig, namespace)
    voice.say(f"kubeconfig: {bed.kubeconfig}")

    voice.step("the operator, as a pod, by its Helm chart")
    image = provision.load_image(bed, OPERATOR, progress)
    template = provision.pod_template(bed, progress=progress)
    server_template = provision.server_template(bed, progress=progress) if traffic else None
    cluster.ensure_namespace()
    install_operator(cluster, image)
    voice.say(f"it serves the namespace {namespace}")
    return Place(cluster, image, template, server_template)


def install_operator(cluster: Cluster, image: str) -> None:
    """Install or upgrade the release for this namespace and those it served before; wait until it is ready.

    Never for the whole cluster: on a test bed other operators, those of the tests, serve other namespaces.
    """
    repository, _, tag = image.rpartition(":")
    values: Object = {
        "image": {"repository": repository, "tag": tag},
        "namespaces": sorted({cluster.namespace, *served_namespaces(cluster)}),
        "progressIntervalSeconds": PROGRESS_SECONDS,
        "prometheusURL": PROMETHEUS,
        "analysis": {"scrapeSeconds": SCRAPE_SECONDS},
    }
    for part in ("trainer", "server"):
        if given := os.environ.get(f"TESTBED_IMAGE_{part.upper()}"):
            repository, _, tag = given.rpartition(":")
            values[part] = {"image": {"repository": repository, "tag": tag}}
    # CRDs that were applied by hand, as `kubectl apply -f crds/`, become the release's.
    flags = ["--create-namespace", "--take-ownership", "--wait", "--timeout", "3m", "--values", "-"]
    try:
        cluster.run_helm(
            "upgrade", "--install", RELEASE, str(CHART), *_TARGET, *flags, stdin=json.dumps(values).encode()
        )
    except ClusterError as error:
        system = replace(cluster, namespace=SYSTEM_NAMESPACE)
        raise ClusterError(f"{error}\n{system.tell(f'app.kubernetes.io/instance={RELEASE}')}") from error


def served_namespaces(cluster: Cluster) -> list[str]:
    """The namespaces that the installed release serves; none when there is no release."""
    releases = json.loads(cluster.run_helm("list", *_TARGET, "--all", "--output", "json"))
    if not any(release["name"] == RELEASE for release in releases):
        return []
    values = json.loads(cluster.run_helm("get", "values", RELEASE, *_TARGET, "--output", "json")) or {}
    # A Role can't be made in a namespace that somebody has deleted since.
    return [str(name) for name in values.get("namespaces", []) if cluster.get("namespace", name)]

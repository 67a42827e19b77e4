"""A real API server with the CRDs of this checkout, and a namespace of its own for every session."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

import testbed
from apicluster import PLURALS, Cluster, Manifest
from rlhf_operator.api.crd import KINDS

ROOT = Path(__file__).parents[3]
ESTABLISHED_DEADLINE_SECONDS = 30


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    bed = testbed.ensure("control-plane")
    namespace = f"api-{uuid.uuid4().hex[:8]}"
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        bed.kubectl.run("apply", "--server-side", "--force-conflicts", "--field-manager=testbed", "-f", str(path))
    bed.kubectl.run(
        "wait",
        "--for=condition=Established",
        f"--timeout={ESTABLISHED_DEADLINE_SECONDS}s",
        *(f"crd/{kind.plural}.rlhf.dev" for kind in KINDS),
    )
    bed.kubectl.run("create", "namespace", namespace)
    cluster = Cluster(bed, namespace)
    _wait_until_served(cluster)
    yield cluster
    cluster.close()
    bed.kubectl.run("delete", "namespace", namespace, "--wait=false")


def _wait_until_served(cluster: Cluster) -> None:
    """Established comes a moment before the API answers for the kind."""
    deadline = time.monotonic() + ESTABLISHED_DEADLINE_SECONDS
    for plural in PLURALS.values():
        while True:
            try:
                cluster.objects.list_namespaced_custom_object("rlhf.dev", "v1alpha1", cluster.namespace, plural)
                break
            except ApiException as error:
                if error.status != 404 or time.monotonic() > deadline:
                    raise


@pytest.fixture(scope="session")
def bases() -> dict[str, Manifest]:
    text = (Path(__file__).parent / "bases.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Manifest] = yaml.safe_load(text)
    return loaded

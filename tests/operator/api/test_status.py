"""The status subresource: never refused for its size or its words, and out of reach of the spec."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apicluster import Cluster, Manifest, merged
from rlhf_operator.api.crd import KINDS
from rlhf_operator.api.rlhfjob import RLHFJobStatus

LONG = "x" * 10_000
MANY = 2_000


@pytest.fixture(params=["ppo", "graders", "rollout"])
def written(cluster: Cluster, bases: dict[str, Manifest], request: pytest.FixtureRequest) -> Iterator[Manifest]:
    manifest = cluster.create(merged(bases[request.param], {"metadata": {"name": f"status-{request.param}"}}))
    yield manifest
    cluster.delete(manifest)


def test_a_long_status_is_taken(cluster: Cluster, written: Manifest) -> None:
    status = {
        "phase": LONG,
        "message": LONG,
        "conditions": [{"type": f"{LONG}{n}", "status": "Perhaps", "reason": LONG} for n in range(10)],
        "effective": {"guards": [f"guard-{n}" for n in range(MANY)]},
    }
    stored = cluster.patch(written, {"status": status}, subresource="_status")
    assert stored["status"] == status


def test_long_lists_of_a_job_are_taken(cluster: Cluster, bases: dict[str, Manifest]) -> None:
    job = cluster.create(merged(bases["ppo"], {"metadata": {"name": "long-lists"}}))
    status = {
        "attempts": [{"number": n, "class": "Crash", "reason": LONG[:100], "node": "a"} for n in range(MANY)],
        "artifact": {"digest": "not a digest", "gate": "Perhaps", "datasetDigests": ["x"] * MANY},
        "progress": {"step": 10**12, "reward": -1.0e30, "kl": 1},
        "evaluation": {"comparisons": [{"scorer": "a", "winRate": 7.5}] * MANY},
    }
    stored = cluster.patch(job, {"status": status}, subresource="_status")
    assert stored["status"] == status
    assert len(RLHFJobStatus.model_validate(stored["status"]).attempts) == MANY
    cluster.delete(job)


def test_an_unchanged_status_is_no_write(cluster: Cluster, written: Manifest) -> None:
    status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}}
    first = cluster.patch(written, status, subresource="_status")
    second = cluster.patch(written, status, subresource="_status")
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_a_status_sent_with_the_spec_is_ignored(cluster: Cluster, written: Manifest) -> None:
    stored = cluster.patch(written, {"status": {"phase": "Complete"}})
    assert "status" not in stored


def test_a_spec_sent_with_the_status_is_ignored(cluster: Cluster, written: Manifest) -> None:
    labels = {"metadata": {"labels": {"a": "b"}}, "spec": {"suspend": True, "versionsLimit": 1}}
    stored = cluster.patch(written, labels | {"status": {"phase": "Running"}}, subresource="_status")
    assert stored["spec"] == written["spec"]
    assert stored["metadata"]["generation"] == 1


def test_a_status_of_every_kind_can_be_read_back_whatever_it_holds() -> None:
    for kind in KINDS:
        kind.part("status").model_validate({"unknown": 1, "conditions": [{"type": "Ready", "extra": LONG}]})

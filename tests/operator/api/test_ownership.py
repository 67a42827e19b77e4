"""Server-side apply: who owns which field, and who may not take it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from apicluster import Cluster, Manifest, merged
from testbed import BedError


@pytest.fixture
def job(cluster: Cluster, bases: dict[str, Manifest]) -> Iterator[Manifest]:
    manifest = merged(bases["ppo"], {"metadata": {"name": "owned"}})
    apply(cluster, manifest, "user")
    yield manifest
    cluster.delete(manifest)


def apply(cluster: Cluster, manifest: Manifest, manager: str, *flags: str) -> str:
    return cluster.kubectl(
        "apply", "--server-side", f"--field-manager={manager}", *flags, "-f", "-", stdin=yaml.safe_dump(manifest)
    )


def owned(cluster: Cluster, manifest: Manifest, manager: str) -> dict[str, Any]:
    entries = cluster.get(manifest)["metadata"]["managedFields"]
    fields: dict[str, Any] = {}
    for entry in entries:
        if entry["manager"] == manager:
            fields |= entry["fieldsV1"]
    return fields


def test_defaults_belong_to_nobody(cluster: Cluster, job: Manifest) -> None:
    spec = owned(cluster, job, "user")["f:spec"]
    assert "f:training" in spec
    assert "f:generation" not in spec
    assert "f:microBatchSize" not in spec["f:training"]


def test_entries_of_keyed_lists_are_owned_one_by_one(cluster: Cluster, job: Manifest) -> None:
    spec = owned(cluster, job, "user")["f:spec"]
    assert 'k:{"name":"kl"}' in spec["f:guards"]
    assert 'k:{"scorer":"tidy"}' in spec["f:rewards"]
    assert {'k:{"name":"tidy"}', 'k:{"name":"gold"}'} <= set(spec["f:scorers"])


def test_the_status_has_an_owner_of_its_own_and_a_new_spec_does_not_touch_it(cluster: Cluster, job: Manifest) -> None:
    status = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {"name": "owned"},
        "status": {"phase": "Running", "conditions": [{"type": "Running", "status": "True", "reason": "A"}]},
    }
    apply(cluster, status, "operator", "--subresource=status")
    apply(cluster, merged(job, {"spec": {"maxRestarts": 9}}), "user")
    stored = cluster.get(job)
    assert stored["status"]["phase"] == "Running"
    assert stored["spec"]["maxRestarts"] == 9
    assert 'k:{"type":"Running"}' in owned(cluster, job, "operator")["f:status"]["f:conditions"]
    assert "f:status" not in owned(cluster, job, "user")


def test_a_condition_of_one_writer_survives_the_other(cluster: Cluster, job: Manifest) -> None:
    for manager, condition in (("operator", "Running"), ("gatekeeper", "Audited")):
        status = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "metadata": {"name": "owned"},
            "status": {"conditions": [{"type": condition, "status": "True"}]},
        }
        apply(cluster, status, manager, "--subresource=status")
    assert {c["type"] for c in cluster.get(job)["status"]["conditions"]} == {"Running", "Audited"}


def test_taking_over_a_field_of_another_needs_force(cluster: Cluster, job: Manifest) -> None:
    theirs = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {"name": "owned"},
        "spec": {"guards": [{"name": "kl", "kl": {"max": 11}}]},
    }
    with pytest.raises(BedError, match=r"conflict with \"user\".*kl\.max"):
        apply(cluster, theirs, "other")


def test_one_guard_can_be_silenced_without_naming_the_rest(cluster: Cluster, job: Manifest) -> None:
    silence = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {"name": "owned"},
        "spec": {"guards": [{"name": "kl", "action": "Off"}]},
    }
    apply(cluster, silence, "on-call")
    (guard,) = cluster.get(job)["spec"]["guards"]
    assert (guard["action"], guard["kl"]) == ("Off", {"max": 10})

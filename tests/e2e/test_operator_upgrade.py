"""Operators that come and go while jobs run: another version with other defaults, and two replicas."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from demo.cluster import condition, is_true
from e2e.conftest import OpenSpace
from e2e.harness import LEASE, OPERATOR_PODS, Space, phase_of
from e2e.harness_jobs import one_worker

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

LEASE_SECONDS = 15
RETRY_SECONDS = 2


def test_upgrade_to_other_defaults_touches_no_job(space: Space) -> None:
    space.submit("ppo", one_worker(space.site))
    space.until("ppo", "Running", lambda job: is_true(job, "Running"), 120)
    space.until("ppo", "its first words", lambda job: (job["status"].get("progress") or {}).get("steps"), 240)
    before = space.jobs("ppo")
    pods = [pod["metadata"]["uid"] for pod in space.pods("ppo")]
    operators = {pod["metadata"]["name"] for pod in space.cluster.objects("pods", OPERATOR_PODS)}

    image = {"repository": "registry.example/another/trainer", "tag": "9.9.9", "pullPolicy": "Always"}
    space.install(trainer={"image": image}, progressIntervalSeconds=2)
    # The new operator has seen the job: it says so of one that was made after it.
    space.cluster.wait("a new leader", lambda: leader(space) not in operators, 60, lambda: leader(space))
    space.submit("later", one_worker(space.site, suspend=True))
    space.until("later", "Suspended", lambda job: is_true(job, "Suspended"), 60)
    space.until("ppo", "figures read by the new operator", lambda job: is_true(job, "Running"), 60)

    after = space.jobs("ppo")
    assert [job["spec"] for job in after] == [job["spec"] for job in before]
    assert [identity(job) for job in after] == [identity(job) for job in before]
    assert [pod["metadata"]["uid"] for pod in space.pods("ppo")] == pods
    assert len(space.job("ppo")["status"]["attempts"]) == 1


def identity(job: dict[str, Any]) -> tuple[str, str, int]:
    """What changes when anybody writes to a Job."""
    meta = job["metadata"]
    return meta["uid"], meta["resourceVersion"], meta["generation"]


def test_the_other_replica_takes_over_within_the_lease_time_and_only_one_writes(open_named: OpenSpace) -> None:
    space = open_named(replicas=2)
    space.cluster.wait("a leader", lambda: leader(space), 60)
    first = leader(space)
    space.submit("before", one_worker(space.site, suspend=True))
    space.until("before", "Suspended", lambda job: phase_of(job) == "Suspended", 60)
    standby = next(name for name in operator_pods(space) if name != first)
    assert writes(space, first) > 0
    assert writes(space, standby) == 0

    # By force: nothing is handed over, the Lease must run out.
    space.cluster.run("delete", "pod", first, "--grace-period=0", "--force", "--wait=false")
    killed = time.monotonic()
    space.cluster.wait("another leader", lambda: leader(space) not in ("", first), 90, lambda: lease(space))
    took = time.monotonic() - killed
    # One second for the way there and back.
    assert took <= LEASE_SECONDS + RETRY_SECONDS + 1, f"took over after {took:.1f} s"
    space.submit("after", one_worker(space.site, suspend=True))
    space.until("after", "Suspended", lambda job: phase_of(job) == "Suspended", 60)
    now = leader(space)
    assert writes(space, now) > 0
    assert all(writes(space, name) == 0 for name in operator_pods(space) if name != now)
    before = space.job("before")
    assert condition(before, "Suspended")


def leader(space: Space) -> str:
    """The pod that holds the Lease."""
    found = space.cluster.get("lease", LEASE) or {}
    return str((found.get("spec") or {}).get("holderIdentity") or "").rpartition("_")[0]


def lease(space: Space) -> str:
    """The Lease, for people."""
    return json.dumps((space.cluster.get("lease", LEASE) or {}).get("spec"))


def operator_pods(space: Space) -> list[str]:
    """The operator's pods that are Ready."""
    pods = space.cluster.objects("pods", OPERATOR_PODS)
    return [pod["metadata"]["name"] for pod in pods if is_true(pod, "Ready")]


def writes(space: Space, pod: str) -> float:
    """How many writes, other than to its Lease, an operator pod has made, by its own metrics."""
    path = f"/api/v1/namespaces/{space.cluster.namespace}/pods/{pod}:8080/proxy/metrics"
    text = space.cluster.run("get", "--raw", path).decode()
    total = 0.0
    for line in text.splitlines():
        match = re.match(r"rlhf_operator_api_requests_total\{(.*)\} (\S+)", line)
        if match and "leases" not in match[1] and not re.search(r'verb="(get|list|watch)"', match[1]):
            total += float(match[2])
    return total

"""The way of a job through the real API server and Job controller; the test plays kubelet and scheduler."""

from __future__ import annotations

import pytest

from opkit.kubelet import progress_server
from rlhf_operator.common.resources import CONFIGMAPS, RLHFJOBS, SERVICES

from .conftest import POD_IP, World, verdict  # type: ignore[import-not-found]


def condition(status: dict, name: str) -> dict:  # type: ignore[type-arg]
    return next((each for each in status.get("conditions", ()) if each["type"] == name), {})


def test_a_job_runs_to_complete_and_its_artifact_is_recorded(world: World) -> None:
    world.apply("happy")
    world.running("happy-train-1")
    status = world.until_phase("happy", "Running")
    digest = status["planDigest"]
    assert condition(status, "ReferencesResolved")["status"] == "True"
    assert condition(status, "StorageReady")["status"] == "True"
    reading = {
        "planDigest": digest,
        "attempt": 1,
        "step": 3,
        "steps": 8,
        "reward": 0.5,
        "kl": 0.25,
        "etaSeconds": 12.4,
        "checkpointStep": 2,
        "checkpointDigest": "sha256:" + "d" * 64,
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    with progress_server(POD_IP, 9400, reading):
        status = world.until("happy", lambda seen: seen.get("progress", {}).get("step") == 3)
    assert status["progress"]["etaSeconds"] == 12
    assert status["checkpoint"]["step"] == 2
    world.succeed("happy-train-1", digest)
    world.publish("happy", 1, digest)
    status = world.until_phase("happy", "Complete")
    assert status["artifact"]["digest"] == "sha256:" + "a" * 64
    assert status["artifact"]["image"]
    assert [attempt["class"] for attempt in status["attempts"]] == ["Succeeded"]
    assert condition(status, "Complete")["status"] == "True"
    assert condition(status, "Ready")["status"] == "True"
    # The logs stay, the Service has done its work.
    assert world.job("happy-train-1") is not None
    world.wait("the Service is deleted", lambda: world.api.get(SERVICES, world.namespace, "happy-train") is None)

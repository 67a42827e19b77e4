"""The example of a PolicyRollout as it ships: it waits for the job that it follows, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.cluster import condition
from e2e.harness import Space

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "policyrollout.yaml"


def test_a_rollout_without_a_job_to_follow_serves_nothing_and_says_what_it_waits_for(space: Space) -> None:
    space.cluster.run("apply", "-f", str(EXAMPLE))

    def waits() -> bool:
        found = condition(space.cluster.get("policyrollout", "assistant"), "Ready")
        return found is not None and found["reason"] == "SourceNotFound"

    space.cluster.wait("a word about the job that is missing", waits, 60)
    found = condition(space.cluster.get("policyrollout", "assistant"), "Ready")
    assert found is not None
    assert "line=assistant" in found["message"]
    table = space.cluster.run("get", "policyrollouts").decode()
    header, row = table.splitlines()
    assert header.split()[:3] == ["NAME", "PHASE", "STEP"]
    assert row.startswith("assistant")
    assert space.cluster.objects("deployments", "rlhf.dev/rollout=assistant") == []
    assert space.cluster.get("httproute", "assistant") is None

"""The two kinds whose controllers come later: stored, printed, and left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.cluster import Object, condition
from e2e.harness import Space
from e2e.harness_jobs import one_worker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


KINDS = [("rewardmodel.yaml", "rewardmodels", "ACCURACY"), ("policyrollout.yaml", "policyrollouts", "PHASE")]
"""Example, plural, and a column that `kubectl get` prints."""


def test_other_kinds_are_stored_printed_and_left_alone(space: Space) -> None:
    versions = {}
    for file, plural, column in KINDS:
        space.cluster.run("apply", "-f", str(EXAMPLES / file))
        table = space.cluster.run("get", plural).decode()
        assert column in table.splitlines()[0], table
        versions[plural] = versions_of(space.cluster.objects(plural))
        assert versions[plural]
        assert all(name in table for name in versions[plural])

    # The operator is at work: it says so of an RLHFJob that was made later.
    space.submit("later", one_worker(space.site, suspend=True))
    space.until("later", "a status", lambda job: condition(job, "Suspended"), 60)
    for plural, before in versions.items():
        now = space.cluster.objects(plural)
        assert versions_of(now) == before
        assert not any(each.get("status") for each in now)
    assert space.cluster.objects("jobs.batch") == []


def versions_of(items: list[Object]) -> dict[str, str]:
    """Name → resourceVersion: what any write changes."""
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}

"""The two kinds whose controllers come later: stored, printed, and left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.cluster import condition
from e2e.harness import Space
from e2e.harness_jobs import one_worker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize(
    ("file", "plural", "column"),
    [("rewardmodel.yaml", "rewardmodels", "ACCURACY"), ("policyrollout.yaml", "policyrollouts", "PHASE")],
)
def test_other_kind_is_stored_printed_and_left_alone(space: Space, file: str, plural: str, column: str) -> None:
    space.cluster.run("apply", "-f", str(EXAMPLES / file))
    stored = space.cluster.objects(plural)
    assert stored
    table = space.cluster.run("get", plural).decode()
    assert column in table.splitlines()[0], table
    assert all(item["metadata"]["name"] in table for item in stored)

    # The operator is at work: it says so of an RLHFJob that was made later.
    space.submit("later", one_worker(space.site, suspend=True))
    space.until("later", "a status", lambda job: condition(job, "Suspended"), 60)
    again = space.cluster.objects(plural)
    assert [item["metadata"]["resourceVersion"] for item in again] == [
        item["metadata"]["resourceVersion"] for item in stored
    ]
    assert not any(item.get("status") for item in again)
    assert space.cluster.objects("jobs") == []

"""A PolicyRollout from `kubectl apply` to a second policy at 100 %, under load: the short test."""

from __future__ import annotations

import pytest

from demo.cluster import condition, is_true
from e2e.harness_load import failures, shares, start_users
from e2e.harness_rollouts import Rollouts, patch_model, variant
from trainer.core.tiny import PROMPTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_a_second_policy_goes_live_step_by_step_and_no_user_notices(rollouts: Rollouts) -> None:
    rollouts.apply("assistant", rollouts.spec("first"))
    found = rollouts.settled("assistant", "first")
    first = variant(found, "Stable")["revision"]
    users = start_users(rollouts.space, "users", rollouts.host, "assistant", PROMPTS, rate=2, tokens=16)
    before = {pod["metadata"]["uid"] for pod in rollouts.pods("assistant", first)}

    patch_model(rollouts, "assistant", "second")
    shadow = rollouts.step("assistant", "shadow")
    second = variant(shadow, "Candidate")["revision"]
    assert second != first
    assert (variant(shadow, "Stable")["weight"], variant(shadow, "Candidate")["weight"]) == (100, 0)
    assert variant(shadow, "Candidate")["mirrorPercent"] == 100
    assert set(shares(users.seen())) == {first}, "copies reach nobody"

    half = rollouts.step("assistant", "half")
    assert (variant(half, "Stable")["weight"], variant(half, "Candidate")["weight"]) == (50, 50)
    (errors,) = half["status"]["analysis"]
    assert errors["metric"] == "errors"
    assert errors["outcome"] in ("Successful", "Inconclusive")
    candidates = {pod["metadata"]["uid"] for pod in rollouts.pods("assistant", second)}
    assert {pod["metadata"]["uid"] for pod in rollouts.pods("assistant", first)} == before

    done = rollouts.settled("assistant", "second")
    assert is_true(done, "Promoted"), condition(done, "Promoted")
    assert {pod["metadata"]["uid"] for pod in rollouts.pods("assistant", second)} == candidates, "no pod restarts"
    entry = done["status"]["history"][0]
    assert (entry["revision"], entry["outcome"]) == (second, "Promoted")
    users.more(10)
    seen = users.end()
    assert failures(seen) == []
    assert set(shares(seen)) == {first, second}
    assert {each.revision for each in seen[-5:]} == {second}

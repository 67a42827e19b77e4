"""What a job survives, and what ends it: the short part that every change is tested with. The rest: test_faults_slow.py."""

from __future__ import annotations

import pytest

from e2e.conftest import Undisturbed
from e2e.harness import Space, attempts_of, classes_of
from e2e.harness_jobs import STEPS, ppo_spec
from e2e.harness_pods import kill_all

pytestmark = pytest.mark.e2e


def test_ppo_with_two_workers_and_zero_two_completes(undisturbed: Undisturbed) -> None:
    status = undisturbed.job["status"]
    assert classes_of(undisturbed.job) == ["Succeeded"]
    assert status["progress"]["step"] == STEPS
    assert undisturbed.result.world_size == 2
    assert "ZeRO-2" in undisturbed.result.engine or "stage 2" in undisturbed.result.engine
    assert undisturbed.result.policy_digest != undisturbed.result.base_model_digest
    assert status["artifact"]["gate"] == "NotEvaluated"
    assert status["artifact"]["digest"].startswith("sha256:")


def test_killed_pod_goes_on_from_the_last_checkpoint_to_the_same_weights(
    space: Space, undisturbed: Undisturbed
) -> None:
    space.submit("ppo", ppo_spec(space.site))
    space.checkpoint("ppo", 4)
    kill_all(space, space.pod("ppo", 1))
    job = space.until("ppo", "the end of attempt 1", lambda job: classes_of(job)[:1] != [None], 60)
    assert classes_of(job)[0] == "Crash", attempts_of(job)
    assert "ppo-train-1-1" in attempts_of(job)[0]["reason"], attempts_of(job)

    job = space.complete("ppo")
    assert classes_of(job) == ["Crash", "Succeeded"]
    assert job["status"]["restarts"] == 1
    resumed = space.log_events("ppo", "resumed", attempt=2)
    assert [event["step"] >= 4 for event in resumed] == [True], resumed
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest

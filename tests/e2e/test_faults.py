"""What a job survives, and what ends it: the short part. The rest: test_faults_survived.py, test_faults_ended.py."""

from __future__ import annotations

import pytest

from e2e.conftest import Undisturbed
from e2e.harness import Space, attempts_of, classes_of, exit_code_of
from e2e.harness_jobs import STEPS, one_worker, ppo_spec
from e2e.harness_pods import kill_all
from rlhf_operator.api.exitcodes import ExitCode

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_ppo_with_two_workers_and_zero_two_completes(undisturbed: Undisturbed) -> None:
    status = undisturbed.job["status"]
    assert classes_of(undisturbed.job) == ["Succeeded"]
    assert (status["progress"]["step"], status["progress"]["steps"]) == (STEPS, STEPS)
    assert undisturbed.result.step == STEPS
    assert undisturbed.result.world_size == 2
    assert "stage=2, partitions=2, world=2" in undisturbed.result.engine
    assert [exit_code_of(pod) for pod in undisturbed.pods] == [0, 0]
    assert status["artifact"]["gate"] == "NotEvaluated"
    assert status["artifact"]["digest"].startswith("sha256:")


def test_killed_pod_goes_on_from_the_last_checkpoint_to_the_same_weights(
    space: Space, undisturbed: Undisturbed
) -> None:
    space.submit("ppo", ppo_spec(space.site))
    space.checkpoint("ppo", 4)
    kill_all(space, space.pod("ppo", 1))
    job = space.until("ppo", "the end of attempt 1", lambda job: classes_of(job)[:1] != [None], 120)
    assert classes_of(job)[0] == "Crash", attempts_of(job)
    assert "ppo-train-1-1" in attempts_of(job)[0]["reason"], attempts_of(job)

    job = space.complete("ppo")
    assert classes_of(job) == ["Crash", "Succeeded"]
    assert job["status"]["restarts"] == 1
    resumed = space.log_events("ppo", "resumed", attempt=2)
    assert [event["step"] >= 4 for event in resumed] == [True], resumed
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest


def test_a_plan_that_cannot_be_run_is_never_tried_again(space: Space) -> None:
    columns = {"dataset": {"columns": {"prompt": "question"}}}
    space.submit("ppo", one_worker(space.site, **columns))
    failed = space.failed("ppo")
    assert failed["reason"] == "ConfigError"
    assert "question" in failed["message"], failed
    assert "prompt" in failed["message"], "the columns that are there are named"
    job = space.job("ppo")
    assert classes_of(job) == ["Config"]
    assert not job["status"].get("restarts")
    assert [job["metadata"]["name"] for job in space.jobs("ppo")] == ["ppo-train-1"]
    assert [exit_code_of(pod) for pod in space.pods("ppo")] == [ExitCode.CONFIG]

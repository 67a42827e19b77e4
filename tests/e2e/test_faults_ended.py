"""What ends a job for good, and the words that say so; every class as the trainer's own exit code."""

from __future__ import annotations

import pytest

from e2e.harness import Space, attempts_of, classes_of, exit_code_of
from e2e.harness_jobs import one_worker
from e2e.harness_pods import kill_all
from rlhf_operator.api.exitcodes import ExitCode

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_worker_without_memory_is_named_halved_once_and_then_failed(space: Space) -> None:
    memory = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "560Mi"}}
    space.submit("ppo", one_worker(space.site, compute={"resources": memory}))
    job = space.until("ppo", "the end of attempt 1", lambda job: classes_of(job)[:1] != [None], 240)
    assert classes_of(job)[0] == "OutOfMemory", attempts_of(job)
    assert "memory limit" in attempts_of(job)[0]["reason"], attempts_of(job)

    failed = space.failed("ppo")
    assert failed["reason"] == "OutOfMemory"
    assert "spec.training.microBatchSize" in failed["message"]
    assert "spec.compute.resources" in failed["message"]
    job = space.job("ppo")
    assert classes_of(job) == ["OutOfMemory", "OutOfMemory"]
    assert [attempt["microBatchSize"] for attempt in attempts_of(job)] == [8, 4]


def test_guard_ends_the_job_with_its_own_code_and_figure(space: Space) -> None:
    space.submit("ppo", one_worker(space.site, guards=[{"name": "kl", "kl": {"max": 1e-6}}]))
    failed = space.failed("ppo")
    assert failed["reason"] == "GuardStopped"
    assert "guard kl" in failed["message"]
    assert "limit 1e-06" in failed["message"]
    assert classes_of(space.job("ppo")) == ["Guard"]
    assert [exit_code_of(pod) for pod in space.pods("ppo")] == [ExitCode.GUARD]


def test_crashes_end_the_job_when_its_restarts_are_used_up(space: Space) -> None:
    space.submit("ppo", one_worker(space.site, maxRestarts=0))
    space.checkpoint("ppo", 2)
    kill_all(space, space.pod("ppo", 0))
    failed = space.failed("ppo", 120)
    assert failed["reason"] == "MaxRestartsExceeded"
    assert "exited 70 (Crash)" in failed["message"]
    assert "rank 0" in failed["message"]
    assert [exit_code_of(pod) for pod in space.pods("ppo")] == [ExitCode.CRASH]

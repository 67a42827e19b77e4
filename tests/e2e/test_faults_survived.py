"""What the cluster or its people do to a job, and what it survives: same weights, and nothing counted against it."""

from __future__ import annotations

import pytest

from e2e.conftest import Undisturbed
from e2e.harness import Probe, Space, attempts_of, classes_of, exit_code_of, phase_of
from e2e.harness_jobs import one_worker, ppo_spec
from e2e.harness_pods import ask_to_stop, drained, kill_all, signal_ranks
from rlhf_operator.api.exitcodes import ExitCode

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_suspension_frees_the_pods_and_resuming_ends_with_the_same_weights(
    space: Space, undisturbed: Undisturbed
) -> None:
    space.submit("ppo", ppo_spec(space.site))
    space.checkpoint("ppo", 2)
    space.patch("ppo", {"suspend": True})
    space.until("ppo", "Suspended", lambda job: phase_of(job) == "Suspended", 120)
    assert space.pods("ppo") == []

    space.patch("ppo", {"suspend": False})
    job = space.complete("ppo")
    assert classes_of(job) == ["Interrupted", "Succeeded"]
    assert not job["status"].get("restarts")
    assert space.log_events("ppo", "resumed", attempt=2), "attempt 2 began anew"
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest


def test_drained_node_is_not_counted_as_a_restart(space: Space, undisturbed: Undisturbed) -> None:
    # A drain goes through all namespaces: nothing else has a job of this name.
    space.submit("drained", ppo_spec(space.site, maxRestarts=0))
    space.checkpoint("drained", 2)
    node = space.pods("drained")[0]["spec"]["nodeName"]
    with drained(space, node, "rlhf.dev/job=drained,rlhf.dev/role=train"):
        job = space.until("drained", "the end of attempt 1", lambda job: classes_of(job)[:1] != [None], 120)
    assert classes_of(job)[0] == "Disruption", attempts_of(job)

    job = space.complete("drained")
    assert classes_of(job) == ["Disruption", "Succeeded"]
    assert not job["status"].get("restarts")
    assert space.result("drained").policy_digest == undisturbed.result.policy_digest


def test_pod_deleted_by_force_is_not_counted_and_the_next_attempt_ends_with_the_same_weights(
    space: Space, undisturbed: Undisturbed
) -> None:
    space.submit("ppo", ppo_spec(space.site, maxRestarts=0))
    space.checkpoint("ppo", 2)
    space.cluster.run("delete", "pod", space.pod("ppo", 0), "--grace-period=0", "--force")
    job = space.complete("ppo")
    assert classes_of(job) == ["Disruption", "Succeeded"], attempts_of(job)
    assert attempts_of(job)[0]["reason"].startswith("PodDeleted"), attempts_of(job)
    assert not job["status"].get("restarts")
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest


def test_pods_asked_to_stop_leave_with_their_own_code_and_the_job_goes_on(
    space: Space, undisturbed: Undisturbed
) -> None:
    space.submit("ppo", ppo_spec(space.site, maxRestarts=0))
    space.checkpoint("ppo", 2)
    codes: set[int | None] = set()

    def left(job: object) -> bool:
        codes.update(exit_code_of(pod) for pod in space.pods("ppo"))
        return ExitCode.INTERRUPTED in codes

    for index in (0, 1):
        ask_to_stop(space, space.pod("ppo", index))
    space.until("ppo", "exit code 75", left, 120)
    job = space.complete("ppo")
    assert not job["status"].get("restarts")
    assert codes <= {None, 0, ExitCode.INTERRUPTED}
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest


def test_finished_pod_that_was_deleted_before_it_was_read_still_gives_its_verdict(space: Space) -> None:
    space.submit("ppo", one_worker(space.site))
    space.checkpoint("ppo", 2)
    space.scale_operator(0)
    space.cluster.run("wait", "--for=condition=Complete", "job/ppo-train-1", "--timeout=400s", timeout_seconds=420)
    space.cluster.run("delete", "pods", "-l", "rlhf.dev/job=ppo,rlhf.dev/role=train", "--wait=true")
    space.scale_operator(1)

    collected: set[str] = set()

    def complete(job: object) -> bool:
        collected.update(entry["metadata"]["name"] for entry in space.jobs("ppo"))
        return False

    with_collect = space.until("ppo", "a collect Job", lambda job: complete(job) or "ppo-collect-1" in collected, 120)
    assert classes_of(with_collect) in ([None], ["Succeeded"])
    job = space.complete("ppo")
    assert classes_of(job) == ["Succeeded"]
    assert job["status"]["artifact"]["digest"].startswith("sha256:")
    assert space.cluster.get("job", "ppo-train-2") is None


def test_attempt_that_was_cut_off_gives_way_and_overwrites_nothing(space: Space, undisturbed: Undisturbed) -> None:
    """Rank 0 is stopped, its Job is orphaned as on a node that is cut off; the next attempt trains; then it wakes."""
    space.submit("ppo", ppo_spec(space.site, timeouts={"progress": "20m"}))
    space.checkpoint("ppo", 2)
    old = space.pod("ppo", 0)
    signal_ranks(space, old, "SIGSTOP")
    space.cluster.run("delete", "job", "ppo-train-1", "--cascade=orphan")
    space.until("ppo", "the end of attempt 1", lambda job: classes_of(job)[:1] == ["Disruption"], 120)
    space.until("ppo", "attempt 2 to train", lambda _: space.owner_of_workspace("ppo") == 2, 300)

    before = space.files_of("ppo", "attempts/1/checkpoints")
    signal_ranks(space, old, "SIGCONT")
    space.cluster.wait("the end of the old pod", lambda: exit_code_of(space.named_pod(old)) is not None, 240)
    assert exit_code_of(space.named_pod(old)) == ExitCode.SUPERSEDED
    # What it had begun may lie in its own folder; what was there stands, and nothing became complete.
    after = space.files_of("ppo", "attempts/1/checkpoints")
    assert before.items() <= after.items()
    assert [path for path in after.keys() - before.keys() if path.endswith("COMPLETE.json")] == []
    job = space.complete("ppo")
    assert classes_of(job) == ["Disruption", "Succeeded"]
    assert space.result("ppo").attempt == 2
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest


def test_rank_that_hangs_is_found_its_stacks_kept_and_tried_again(space: Space, undisturbed: Undisturbed) -> None:
    space.submit("ppo", ppo_spec(space.site, timeouts={"progress": "2m"}))
    space.checkpoint("ppo", 4)
    signal_ranks(space, space.pod("ppo", 1), "SIGSTOP")
    job = space.until("ppo", "the end of attempt 1", lambda job: classes_of(job)[:1] != [None], 360)
    assert classes_of(job)[0] == "Stalled", attempts_of(job)
    assert "timeouts.progress" in attempts_of(job)[0]["reason"], attempts_of(job)
    stacks = {path: size for path, size in space.files_of("ppo", "attempts/1/stacks").items() if "rank-" in path}
    assert set(stacks) == {"rank-0.txt", "rank-1.txt"}, stacks
    assert all("File" in space.files.read(f"{space.workspace('ppo')}/attempts/1/stacks/{p}").decode() for p in stacks)

    job = space.complete("ppo")
    assert classes_of(job) == ["Stalled", "Succeeded"]
    assert job["status"]["restarts"] == 1
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest


def test_killing_a_pod_again_and_again_ends_with_the_same_weights(space: Space, undisturbed: Undisturbed) -> None:
    space.submit("ppo", ppo_spec(space.site, maxRestarts=5))
    for attempt, step in ((1, 2), (2, 4), (3, 6)):
        space.until("ppo", f"attempt {attempt}", _running(attempt), 300)
        space.checkpoint("ppo", step)
        kill_all(space, space.pod("ppo", attempt % 2, attempt))
        space.until("ppo", "its end", _ended(attempt), 120)
    job = space.complete("ppo")
    assert classes_of(job) == ["Crash", "Crash", "Crash", "Succeeded"]
    assert space.result("ppo").policy_digest == undisturbed.result.policy_digest


def _running(attempt: int) -> Probe:
    return lambda job: classes_of(job)[attempt - 1 :] == [None]


def _ended(attempt: int) -> Probe:
    return lambda job: classes_of(job)[attempt - 1 : attempt] not in ([], [None])

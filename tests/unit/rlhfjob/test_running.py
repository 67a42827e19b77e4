"""An attempt under observation: what is decided, as a table of observations and plans."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Progress
from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.views import Observed, WorkloadView
from rlhf_trainer.errors import Superseded
from rlhf_trainer.fencing import Workspace

from .factory import (
    NOW,
    attempt,
    condition,
    dead,
    frozen,
    is_status,
    job,
    observed,
    pod,
    running,
    spec_of,
    status_of,
    verdict,
)


def names(manifests: Any) -> list[str]:
    return [f"{each['kind']}/{each['metadata']['name']}" for each in manifests]


def test_a_new_job_makes_everything_in_one_pass() -> None:
    plan = reconcile(observed(), NOW)
    digest = frozen().digest.removeprefix("sha256:")[:12]
    assert names(plan.create) == [f"ConfigMap/assistant-plan-{digest}", "Job/assistant-train-1"]
    assert names(plan.apply) == ["ConfigMap/assistant-settings", "Service/assistant-train"]
    assert plan.status is not None
    assert plan.status["attempts"] == [{"number": 1, "microBatchSize": 4}]
    assert plan.status["planDigest"] == frozen().digest
    assert plan.status["algorithm"] == "PPO"
    assert plan.status["effective"] == {"guards": ["finite=Stop"], "metrics": [], "rewards": ["short=0.5"]}
    assert is_status(plan, "ReferencesResolved") == "True/Resolved"
    assert is_status(plan, "StorageReady") == "True/StorageReady"
    assert is_status(plan, "Ready") == "False/Starting"


def test_a_plan_that_is_frozen_is_read_and_not_rendered_again() -> None:
    """An operator upgrade with another trainer image touches no job that has a plan."""
    upgraded = replace(observed(plan=frozen()).defaults, trainer_image="registry.example/trainer:2")
    view = observed(plan=frozen(), defaults=upgraded, status=status_of(planDigest=frozen().digest))
    plan = reconcile(view, NOW)
    assert names(plan.create) == ["Job/assistant-train-1"]
    image = plan.create[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example/trainer:1"


def test_a_plan_whose_config_map_is_gone_is_not_replaced_by_another() -> None:
    view = observed(status=status_of(planDigest="sha256:" + "0" * 64, attempts=[attempt(1, "Disruption")]))
    plan = reconcile(view, NOW)
    assert plan.create == ()
    assert is_status(plan, "Stalled") == "True/PlanChanged"


def test_a_running_attempt_is_left_alone() -> None:
    plan = reconcile(running(), NOW)
    assert (plan.create, plan.delete) == ((), ())
    assert is_status(plan, "Running") == "True/Running"
    assert plan.wake_at == NOW + timedelta(seconds=15)


def test_guard_actions_reach_a_running_job_and_change_no_plan() -> None:
    spec = spec_of(guards=[{"name": "finite", "nonFinite": {}, "action": "Warn"}])
    plan = reconcile(running(spec), NOW)
    assert plan.apply[0]["data"]["settings.json"] == '{"guardActions":{"finite":"Warn"}}'
    assert frozen(spec).digest == frozen().digest


OUTSIDE_THE_PLAN = [
    {"suspend": True},
    {"ttlSecondsAfterFinished": 5},
    {"budget": {"maxGPUHours": 5}},
    {"maxRestarts": 1},
    {"training": {"steps": 8, "batchSize": 16, "microBatchSize": 2}},
    {"guards": [{"name": "finite", "nonFinite": {}, "action": "Off"}]},
]


@pytest.mark.parametrize("change", OUTSIDE_THE_PLAN)
def test_what_does_not_change_the_run_does_not_change_its_workspace(change: dict[str, Any]) -> None:
    assert frozen(spec_of(**change)).digest == frozen().digest


def test_what_changes_the_run_changes_its_workspace() -> None:
    assert frozen(spec_of(training={"steps": 9, "batchSize": 16})).digest != frozen().digest


@pytest.mark.parametrize(
    ("pods", "job_fields", "class_", "words"),
    [
        ((dead(0, 70, "boom\nValueError: bad"),), {}, "Crash", "ValueError: bad"),
        ((dead(0, 82), dead(1, 137)), {}, "Crash", "exited 137"),
        ((dead(0, 82), dead(1, 137, exit_reason="OOMKilled")), {}, "OutOfMemory", "OOMKilled"),
        ((dead(0, 82), dead(1, 81)), {}, "OutOfMemory", "exited 81"),
        ((dead(0, 84),), {}, "Stalled", "exited 84"),
        ((dead(0, 75), dead(1, 75, disruption="EvictionByEvictionAPI")), {}, "Disruption", "EvictionByEvictionAPI"),
        ((dead(0, 70), dead(1, 75, disruption="DeletionByTaintManager")), {}, "Disruption", "TaintManager"),
        ((dead(0, 83),), {}, "Superseded", "exited 83"),
        # Its peer's pod is gone: a pod that fails by itself stays.
        ((dead(0, 82),), {}, "Disruption", "index 1 was deleted"),
        ((dead(0, 82), dead(1, 82)), {}, "PeerLost", "exited 82"),
        # The pod is gone, the Job's condition still names it.
        (
            (dead(0, 82),),
            {
                "failed_message": "Container trainer for pod team/assistant-train-1-1-xyz failed with exit code 81 "
                "matching FailJob rule at index 2"
            },
            "OutOfMemory",
            "assistant-train-1-1-xyz exited 81",
        ),
        (
            (dead(0, 82),),
            {
                "failed_message": "Pod team/assistant-train-1-1-xyz has condition DisruptionTarget matching FailJob "
                "rule at index 3"
            },
            "Disruption",
            "taken away",
        ),
    ],
)
def test_the_root_cause_is_found_and_retried(pods: Any, job_fields: dict[str, Any], class_: str, words: str) -> None:
    view = running(attempts=(job(1, *pods, failed=True, **job_fields),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == class_
    assert words in plan.status["attempts"][-1]["reason"]
    counted = class_ in ("Crash", "OutOfMemory", "Stalled", "PeerLost")
    assert plan.status["restarts"] == int(counted)
    assert is_status(plan, "Failed") == "False/NotFinished"
    # Recorded first; only a later pass deletes.
    assert (plan.delete, plan.create) == ((), ())


@pytest.mark.parametrize(("code", "reason"), [(78, "ConfigError"), (80, "GuardStopped")], ids=["config", "guard"])
def test_config_and_guard_are_never_retried(code: int, reason: str) -> None:
    said = verdict(failure="Config", reason="Config", message="steps 0 of rank 3").encode().decode()
    plan = reconcile(
        running(
            None, dead(0, code, said), dead(1, 82), attempts=(job(1, dead(0, code, said), dead(1, 82), failed=True),)
        ),
        NOW,
    )
    assert is_status(plan, "Failed") == f"True/{reason}"
    assert "steps 0 of rank 3" in condition(plan, "Failed")["message"]
    assert is_status(plan, "Stalled") == f"True/{reason}"


def test_the_job_is_deleted_only_when_its_end_is_on_record() -> None:
    view = running(
        status=status_of(attempts=[attempt(1, "Crash")], restarts=1), attempts=(job(1, dead(0, 70), failed=True),)
    )
    plan = reconcile(view, NOW)
    assert [(each.name, each.uid, each.propagation) for each in plan.delete] == [
        ("assistant-train-1", "job-1", "Foreground")
    ]
    assert plan.create == ()


def test_the_next_attempt_waits_for_its_back_off() -> None:
    view = observed(plan=frozen(), status=status_of(attempts=[attempt(1, "Crash")], restarts=1))
    early = reconcile(view, NOW + timedelta(seconds=9))
    assert (early.create, early.wake_at) == ((), NOW + timedelta(seconds=10))
    assert is_status(early, "Running") == "False/BackOff"
    late = reconcile(view, NOW + timedelta(seconds=10))
    assert names(late.create) == ["Job/assistant-train-2"]


def test_a_disruption_is_free_and_retried_at_once() -> None:
    view = observed(plan=frozen(), status=status_of(attempts=[attempt(1, "Disruption")], restarts=5))
    assert names(reconcile(view, NOW).create) == ["Job/assistant-train-2"]


def test_disruptions_that_follow_each_other_at_once_back_off() -> None:
    short = {"from": NOW - timedelta(seconds=5)}
    view = observed(
        plan=frozen(), status=status_of(attempts=[attempt(1, "Disruption", **short), attempt(2, "Disruption", **short)])
    )
    assert reconcile(view, NOW).wake_at == NOW + timedelta(seconds=20)


def test_too_many_restarts_fail_the_job_with_the_last_words() -> None:
    view = running(
        spec_of(maxRestarts=2),
        attempts=(job(1, dead(0, 70, "RuntimeError: no"), failed=True),),
        status=status_of(attempts=[attempt()], restarts=2),
    )
    plan = reconcile(view, NOW)
    assert is_status(plan, "Failed") == "True/MaxRestartsExceeded"
    assert "maxRestarts 2" in condition(plan, "Failed")["message"]
    assert "RuntimeError: no" in condition(plan, "Failed")["message"]


def test_out_of_memory_halves_the_micro_batch_once() -> None:
    view = observed(plan=frozen(), status=status_of(attempts=[attempt(1, "OutOfMemory")], restarts=1))
    plan = reconcile(view, NOW + timedelta(minutes=1))
    arguments = plan.create[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--micro-batch-size") + 1] == "2"
    assert "microBatchSize 2 instead of 4" in plan.events[0].message
    oom = dead(1, 137, exit_reason="OOMKilled")
    again = running(
        attempts=(job(2, dead(0, 82), oom, failed=True, micro_batch_size=2),),
        status=status_of(attempts=[attempt(1, "OutOfMemory"), attempt(2, microBatchSize=2)], restarts=1),
    )
    failed = reconcile(again, NOW)
    assert is_status(failed, "Failed") == "True/OutOfMemory"
    assert "spec.training.microBatchSize" in condition(failed, "Failed")["message"]


def test_a_micro_batch_stays_halved_after_another_failure() -> None:
    records = [attempt(1, "OutOfMemory"), attempt(2, "Disruption", microBatchSize=2)]
    view = observed(plan=frozen(), status=status_of(attempts=records, restarts=1))
    arguments = reconcile(view, NOW).create[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--micro-batch-size") + 1] == "2"


def test_two_failures_on_one_node_make_the_next_attempt_prefer_others() -> None:
    records = [attempt(1, "Crash", node="node-7"), attempt(2, "Stalled", node="node-7")]
    plan = reconcile(observed(plan=frozen(), status=status_of(attempts=records, restarts=2)), NOW + timedelta(hours=1))
    affinity = plan.create[0]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert list(affinity) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    assert "node-7" in plan.events[0].message


def test_the_next_attempt_must_find_the_checkpoint_that_status_knows() -> None:
    status = status_of(attempts=[attempt(1, "Disruption")], checkpoint={"step": 6, "digest": "sha256:" + "1" * 64})
    arguments = reconcile(observed(plan=frozen(), status=status), NOW).create[0]
    args = arguments["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--min-checkpoint-step") + 1] == "6"


def test_rank_0s_word_is_success_even_when_another_pod_failed() -> None:
    said = verdict().encode().decode()
    view = running(attempts=(job(1, dead(0, 0, said), dead(1, 70), failed=True, verdict=verdict()),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"


def test_the_last_words_replace_the_last_reading() -> None:
    said = verdict(step=10, figures={"reward": 0.9, "kl": 1.5, "truncatedShare": 0.1})
    view = running(attempts=(job(1, dead(0, 0, said.encode().decode()), dead(1, 0), verdict=said),))
    status = reconcile(view, NOW).status
    assert status is not None
    shown = {name: status["progress"][name] for name in ("step", "steps", "reward", "kl", "etaSeconds")}
    assert shown == {"step": 10, "steps": 10, "reward": 0.9, "kl": 1.5, "etaSeconds": 0}


def test_a_complete_job_without_a_verdict_is_not_success() -> None:
    plan = reconcile(running(attempts=(job(1, complete=True),)), NOW)
    assert names(plan.create) == ["Job/assistant-collect-1"]
    assert is_status(plan, "Complete") == "False/NotFinished"
    assert plan.status is not None
    assert plan.status["attempts"][-1].get("class") is None


@pytest.mark.parametrize("plan_digest", ["sha256:" + "9" * 64])
def test_a_verdict_about_another_plan_is_none(plan_digest: str) -> None:
    other = verdict(planDigest=plan_digest)
    plan = reconcile(running(attempts=(job(1, dead(0, 0), dead(1, 0), complete=True, verdict=other),)), NOW)
    assert names(plan.create) == ["Job/assistant-collect-1"]


def collected(**fields: Any) -> Observed:
    return running(
        attempts=(job(1, complete=True),),
        collect=job(1, name="assistant-collect-1", uid="collect", role="collect", workers=1, **fields),
    )


def test_the_collected_verdict_arrives() -> None:
    plan = reconcile(collected(complete=True, verdict=verdict()), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"


def test_no_verdict_at_all_is_result_unknown_and_never_complete() -> None:
    plan = reconcile(collected(failed=True, failed_message="no result.json"), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "ResultUnknown"
    assert plan.status["restarts"] == 1
    waiting = reconcile(collected(), NOW)
    assert waiting.create == ()
    assert waiting.status is not None
    assert waiting.status["phase"] == "Finishing"


def test_a_workspace_without_a_result_is_asked_once() -> None:
    said = verdict(failure="ResultUnknown", reason="NoResult", message="result.json is not there")
    plan = reconcile(collected(verdict=said), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "ResultUnknown"
    # What could not be read may be readable on another node.
    unread = verdict(failure="ResultUnknown", reason="ResultUnreadable", message="I/O error")
    still = reconcile(collected(verdict=unread), NOW)
    assert still.status is not None
    assert still.status["phase"] == "Finishing"


def test_suspend_deletes_the_job_in_the_foreground_and_resume_counts_no_restart() -> None:
    spec = spec_of(suspend=True)
    stop = reconcile(running(spec), NOW)
    assert [(each.uid, each.propagation) for each in stop.delete] == [("job-1", "Foreground")]
    assert is_status(stop, "Suspended") == "False/Suspending"
    gone = reconcile(running(spec, attempts=()), NOW)
    assert gone.status is not None
    assert is_status(gone, "Suspended") == "True/Suspended"
    assert gone.status["attempts"][-1]["class"] == "Interrupted"
    assert gone.status["restarts"] == 0
    resumed = reconcile(observed(plan=frozen(), status=status_of(**gone.status)), NOW + timedelta(seconds=1))
    assert names(resumed.create) == ["Job/assistant-train-2"]


def test_a_result_that_came_before_the_suspension_counts() -> None:
    said = verdict()
    view = running(
        spec_of(suspend=True),
        attempts=(job(1, dead(0, 0, said.encode().decode()), dead(1, 0), deleting=True, verdict=said),),
    )
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"


def test_a_job_that_somebody_deleted_is_a_disruption() -> None:
    plan = reconcile(running(attempts=()), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Disruption"
    assert plan.status["restarts"] == 0


def test_not_all_workers_within_the_startup_timeout_is_told_in_the_schedulers_words() -> None:
    waiting = pod(1, phase="Pending", started=False, node=None, waiting="pod-1: 0/3 nodes are available")
    early = running(None, pod(0), waiting, attempts=(job(1, pod(0), waiting, started_at=NOW - timedelta(minutes=29)),))
    plan = reconcile(early, NOW)
    assert is_status(plan, "Running") == "False/Starting"
    assert "0/3 nodes are available" in condition(plan, "Running")["message"]
    assert plan.wake_at == NOW + timedelta(minutes=1)
    late = reconcile(early, NOW + timedelta(minutes=1))
    assert late.status is not None
    assert late.status["attempts"][-1]["class"] == "GangNotScheduled"
    assert "0/3 nodes are available" in late.status["attempts"][-1]["reason"]
    # Only failures of the run itself count; a full cluster is waited for with back-off.
    assert late.status["restarts"] == 0
    full = running(spec_of(maxRestarts=0), attempts=early.attempts)
    assert is_status(reconcile(full, NOW + timedelta(minutes=1)), "Failed") == "False/NotFinished"
    records = [attempt(number, "GangNotScheduled") for number in (1, 2, 3)]
    again = reconcile(observed(plan=frozen(), status=status_of(attempts=records)), NOW)
    assert (again.create, again.wake_at) == ((), NOW + timedelta(seconds=40))


BLAME: list[tuple[Any, str, str | None]] = [
    ((dead(0, 82), dead(1, 70)), "Crash", "node-1"),
    ((dead(0, 82), dead(1, 84)), "Stalled", "node-1"),
    # Which of them kept the others waiting is not known.
    ((dead(0, 84), dead(1, 84)), "Stalled", None),
    ((dead(0, 82), dead(1, 82)), "PeerLost", None),
    ((dead(0, 82),), "Disruption", None),
]


@pytest.mark.parametrize(("pods", "class_", "node"), BLAME)
def test_no_node_is_blamed_for_what_another_did(pods: Any, class_: str, node: str | None) -> None:
    plan = reconcile(running(attempts=(job(1, *pods, failed=True),)), NOW)
    assert plan.status is not None
    record = plan.status["attempts"][-1]
    assert (record["class"], record.get("node")) == (class_, node)


def test_a_job_created_again_steps_over_the_attempts_of_its_former_life(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "7").mkdir(parents=True)
    # In the trainer's own words: they are what the number is read from.
    with pytest.raises(Superseded) as gave_way:
        Workspace(tmp_path, 1).check()
    said = verdict(failure="Superseded", reason="Superseded", message=str(gave_way.value))
    ended = dead(0, 83, said.encode().decode())
    plan = reconcile(running(attempts=(job(1, ended, dead(1, 82), failed=True, verdict=said),)), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Superseded"
    after = observed(plan=frozen(), status=status_of(**plan.status))
    assert names(reconcile(after, NOW + timedelta(seconds=10)).create) == ["Job/assistant-train-8"]


def reading(step: int, reward: float | None = 0.5) -> Progress:
    return Progress(plan_digest=frozen().digest, attempt=1, step=step, steps=8, reward=reward, updated_at=NOW)


def stuck(
    spec: Any = None,
    step: int = 3,
    reward: float | None = 0.5,
    minutes: int = 41,
    attempts_from: int = 1440,
    **changes: Any,
) -> Observed:
    """An attempt that began a day ago and whose last reading changed so many minutes ago."""
    known = {"step": step, "steps": 8, "reward": reward, "updatedAt": NOW - timedelta(minutes=minutes)}
    records = [attempt(1, None, **{"from": NOW - timedelta(minutes=attempts_from)})]
    status = status_of(attempts=records, planDigest=frozen(spec).digest, progress=known)
    return running(spec, status=status, **({"progress": reading(step, reward)} | changes))


WARM_UP = {
    "dataset": {
        "configMap": {"name": "prompts", "key": "train.jsonl"},
        "format": "Demonstrations",
    },
    "training": {"epochs": 1, "batchSize": 8},
}

SILENCE: list[tuple[Observed, str | None]] = [
    (stuck(), "Stalled"),
    (stuck(minutes=39), None),
    (stuck(progress=None), None),
    (stuck(progress=reading(4)), None),
    (stuck(step=8), None),
    (stuck(step=0, reward=None), "Stalled"),
    (stuck(spec_of(warmStart=WARM_UP), step=0, reward=None), None),
    # Resumed where the attempt before it was: its own start counts.
    (stuck(minutes=200, attempts_from=39), None),
    (stuck(minutes=200, attempts_from=41), "Stalled"),
]


@pytest.mark.parametrize(
    ("view", "class_"),
    SILENCE,
    ids=["stalled", "patience", "unread", "moves", "last", "never", "warm-start", "resumed", "resumed-late"],
)
def test_an_attempt_without_steps_is_ended_when_its_watchdog_does_not(view: Observed, class_: str | None) -> None:
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1].get("class") == class_
    assert plan.status["restarts"] == int(class_ is not None)
    if class_ is not None:
        assert "after step" in plan.status["attempts"][-1]["reason"]
        after = replace(view, status=status_of(**plan.status), raw_status=plan.status)
        assert [each.uid for each in reconcile(after, NOW).delete] == ["job-1"]


def test_gpu_hours_are_those_of_the_pods_and_not_of_the_looks_at_them() -> None:
    """The operator was down for two hours, and the Job waited half an hour for its first node."""
    began, ended = NOW - timedelta(minutes=210), NOW - timedelta(hours=2)
    pods = [dead(0, 70, scheduled_at=began), dead(1, 82, scheduled_at=began + timedelta(minutes=5))]
    pods = [replace(each, ended_at=ended - timedelta(minutes=index)) for index, each in enumerate(pods)]
    view = running(
        gpu_spec(),
        attempts=(job(1, *pods, failed=True, started_at=NOW - timedelta(hours=4)),),
        status=status_of(attempts=[{"number": 1, "microBatchSize": 1}]),
    )
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["cost"]["gpuHours"] == 1.5 * 8
    # Its pods are gone: the Job controller's word on the end is what is left.
    gone = replace(view, attempts=(job(1, failed=True, ended_at=ended, failed_message=GONE),))
    records = status_of(attempts=[attempt(1, None, **{"from": began})])
    assert reconcile(replace(gone, status=records), NOW).status["cost"]["gpuHours"] == 1.5 * 8  # type: ignore[index]


GONE = "Pod team/assistant-train-1-1-xyz has condition DisruptionTarget matching FailJob rule at index 3"


def test_a_sidecar_keeps_no_attempt_from_being_over() -> None:
    said = verdict()
    sidecar = pod(0, exit_code=0, busy=True, termination_message=said.encode().decode())
    view = running(attempts=(job(1, sidecar, pod(1, exit_code=0), verdict=said),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"
    after = replace(view, status=status_of(attempts=[attempt(1, "Succeeded")]))
    assert [each.name for each in reconcile(after, NOW).delete] == ["assistant-train-1"]


def test_a_pod_on_a_dead_node_is_given_up_and_left_to_be_fenced() -> None:
    stuck = pod(1, deleting_since=NOW - timedelta(minutes=2))
    view = running(None, dead(0, 82), stuck, attempts=(job(1, dead(0, 82), stuck),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Disruption"
    after = replace(view, status=status_of(attempts=[attempt(1, "Disruption")]))
    assert [each.propagation for each in reconcile(after, NOW).delete] == ["Background"]


KUEUE = {"workers": 2, "queueName": "research", "priorityClass": "batch"}


def test_a_queued_job_is_made_suspended_with_kueues_labels() -> None:
    plan = reconcile(observed(spec_of(compute=KUEUE)), NOW)
    made = plan.create[-1]
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert made["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "batch"
    assert is_status(plan, "Queued") == "True/Queued"


def queued(**changes: Any) -> Observed:
    held = job(1, suspended=True, started_at=None, created_at=NOW, queue_name="research")
    return running(spec_of(compute=KUEUE), attempts=(held,), **changes)


def test_a_queue_without_a_workload_is_said_to_be_silent() -> None:
    status = status_of(attempts=[{"number": 1, "microBatchSize": 4}])
    early = reconcile(queued(status=status), NOW)
    assert (is_status(early, "Queued"), early.wake_at) == ("True/Queued", NOW + timedelta(seconds=60))
    late = reconcile(queued(status=status), NOW + timedelta(seconds=60))
    assert is_status(late, "Queued") == "True/KueueNotResponding"
    assert "LocalQueue research" in condition(late, "Queued")["message"]
    assert late.delete == ()


def test_a_preempted_job_keeps_its_place_and_costs_nothing_while_it_waits() -> None:
    compute = {**KUEUE, "gpusPerWorker": 8}
    spec = spec_of(compute=compute, training={"steps": 8, "batchSize": 64, "microBatchSize": 1})
    held = job(1, suspended=True, started_at=None, queue_name="research")
    workload = WorkloadView("w", evicted="Preempted", message="couldn't assign flavors")
    view = running(spec, attempts=(held,), workload=workload)
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert is_status(plan, "Queued") == "True/Preempted"
    assert plan.status["attempts"][-1]["class"] == "Disruption"
    assert plan.status["cost"]["gpuHours"] == 16
    assert (plan.delete, plan.create) == ((), ())
    again = replace(view, status=status_of(**plan.status), raw_status=plan.status)
    later = reconcile(again, NOW + timedelta(hours=3))
    assert later.status is not None
    assert later.status["cost"]["gpuHours"] == 16
    admitted = replace(again, attempts=(job(1, pod(0), pod(1), started_at=NOW + timedelta(hours=3)),))
    resumed = reconcile(admitted, NOW + timedelta(hours=4))
    assert resumed.status is not None
    assert [each["number"] for each in resumed.status["attempts"]] == [1, 1]
    assert resumed.status["cost"]["gpuHours"] == 32
    assert resumed.status["restarts"] == 0


def gpu_spec(**changes: Any) -> Any:
    return spec_of(
        compute={"workers": 2, "gpusPerWorker": 4},
        training={"steps": 8, "batchSize": 64, "microBatchSize": 1},
        **changes,
    )


def test_a_budget_that_is_used_up_stops_the_pods_and_raising_it_goes_on() -> None:
    budget = {"maxGPUHours": 8, "pricePerGPUHour": "2.50"}
    plan = reconcile(running(gpu_spec(budget=budget)), NOW)
    assert [each.uid for each in plan.delete] == ["job-1"]
    assert plan.status is not None
    assert plan.status["cost"] == {"gpuHours": 8.0, "endedGPUHours": 0.0, "amount": "20.00"}
    gone = reconcile(running(gpu_spec(budget=budget), attempts=()), NOW)
    assert gone.status is not None
    assert is_status(gone, "Suspended") == "True/BudgetExceeded"
    assert is_status(gone, "Stalled") == "True/BudgetExceeded"
    assert is_status(gone, "Failed") == "False/NotFinished"
    still = observed(gpu_spec(budget=budget), plan=frozen(gpu_spec()), status=status_of(**gone.status))
    assert reconcile(still, NOW + timedelta(days=1)).create == ()
    raised = replace(still, spec=gpu_spec(budget={"maxGPUHours": 9}))
    assert names(reconcile(raised, NOW).create) == ["Job/assistant-train-2"]


def test_the_budget_is_looked_at_when_it_will_be_reached() -> None:
    plan = reconcile(running(gpu_spec(budget={"maxGPUHours": 8.002, "pricePerGPUHour": "1"})), NOW)
    assert plan.delete == ()
    assert plan.wake_at is not None
    assert timedelta(0) < plan.wake_at - NOW < timedelta(seconds=1)


def test_max_cost_is_a_budget_too() -> None:
    plan = reconcile(running(gpu_spec(budget={"maxCost": "16", "pricePerGPUHour": "2"})), NOW)
    assert "budget.maxCost 16" in plan.status["message"]  # type: ignore[index]


def test_a_plan_survives_its_own_text() -> None:
    text = frozen().plan
    assert text is not None
    assert TrainingPlan.model_validate_json(text.canonical()).digest() == frozen().digest


def test_a_job_that_waits_for_its_pods_writes_its_status_once() -> None:
    made = reconcile(observed(), NOW)
    assert [event.reason for event in made.events] == ["AttemptStarted"]
    assert made.status is not None
    waiting = running(
        attempts=(job(1, pod(0, phase="Pending", node=None, started=False), started_at=NOW),),
        status=status_of(**made.status),
        raw_status=made.status,
    )
    assert reconcile(waiting, NOW + timedelta(seconds=2)).status == made.status


def test_a_queued_job_that_waits_for_kueue_writes_its_status_once() -> None:
    made = reconcile(observed(spec_of(compute=KUEUE)), NOW)
    assert made.status is not None
    view = queued(status=status_of(**made.status), raw_status=made.status)
    plan = reconcile(replace(view, plan=frozen(spec_of(compute=KUEUE))), NOW)
    assert plan.status == made.status

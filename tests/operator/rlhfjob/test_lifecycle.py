"""The way of a job through the real API server and Job controller; the test plays kubelet and scheduler."""

from __future__ import annotations

from typing import Any

from opkit import kueue
from opkit.api import Object, condition
from opkit.kubelet import progress_server
from rlhf_operator.common.resources import CONFIGMAPS, EVENTS, JOBS, PODS, PVCS, RLHFJOBS, SERVICES

from .conftest import POD_IP, World, claim, verdict


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


def test_a_crash_is_retried_after_its_end_is_on_record(world: World) -> None:
    world.apply("crash")
    world.running("crash-train-1")
    world.until_phase("crash", "Running")
    world.exit("crash-train-1", {1: 137, 0: 82})
    status = world.until("crash", lambda seen: seen.get("restarts") == 1)
    assert status["attempts"][0]["class"] == "Crash"
    assert status["attempts"][0]["node"] == "node-a"
    world.running("crash-train-2")
    status = world.until_phase("crash", "Running")
    assert [each["number"] for each in status["attempts"]] == [1, 2]
    assert world.job("crash-train-1") is None


def test_out_of_memory_is_retried_once_with_half_the_micro_batch_and_then_named(world: World) -> None:
    world.apply("oom")
    world.running("oom-train-1")
    world.exit("oom-train-1", {1: 137}, reason="OOMKilled")
    status = world.until("oom", lambda seen: seen.get("restarts") == 1)
    assert status["attempts"][0]["class"] == "OutOfMemory"
    world.running("oom-train-2")
    job = world.job("oom-train-2")
    assert job is not None
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--micro-batch-size") + 1] == "2"
    world.exit("oom-train-2", {0: 81}, {0: verdict("sha256:" + "0" * 64, failure="OutOfMemory", message="CUDA")})
    status = world.until_phase("oom", "Failed")
    assert condition(status, "Failed")["reason"] == "OutOfMemory"
    assert "spec.training.microBatchSize" in condition(status, "Failed")["message"]


def test_a_plan_that_can_not_be_run_is_never_retried(world: World) -> None:
    world.apply("config")
    world.running("config-train-1")
    digest = world.until_phase("config", "Running")["planDigest"]
    world.exit("config-train-1", {0: 78}, {0: verdict(digest, failure="Config", message="dataset: 0 rows are left")})
    status = world.until_phase("config", "Failed")
    assert condition(status, "Failed")["reason"] == "ConfigError"
    assert "dataset: 0 rows are left" in status["message"]
    assert status["restarts"] == 0

    def told() -> bool:
        events = world.api.list(EVENTS, world.namespace)
        return any("dataset: 0 rows are left" in event["note"] for event in events if event["type"] == "Warning")

    world.wait("the event is there", told)


def test_a_drained_pod_is_not_a_restart(world: World) -> None:
    world.apply("drain")
    pods = world.running("drain-train-1")
    world.until_phase("drain", "Running")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pods[1]["metadata"]["name"]}}
    world.api.call("POST", PODS.path(world.namespace, pods[1]["metadata"]["name"], "eviction"), eviction)
    status = world.until("drain", lambda seen: (seen.get("attempts") or [{}])[0].get("class"))
    assert status["attempts"][0]["class"] == "Disruption"
    world.running("drain-train-2")
    assert world.until_phase("drain", "Running")["restarts"] == 0


def test_suspend_frees_the_pods_and_resume_is_no_restart(world: World) -> None:
    world.apply("pause")
    world.running("pause-train-1")
    world.until_phase("pause", "Running")
    world.patch("pause", suspend=True)
    status = world.until_phase("pause", "Suspended")
    assert condition(status, "Suspended") == condition(status, "Suspended") | {"status": "True", "reason": "Suspended"}
    assert world.jobs("pause") == []
    world.patch("pause", suspend=False)
    world.running("pause-train-2")
    status = world.until_phase("pause", "Running")
    assert status["restarts"] == 0
    assert [each["number"] for each in status["attempts"]] == [1, 2]


def test_kueue_admits_preempts_and_admits_again(world: World) -> None:
    world.apply("queue", compute={"workers": 2, "queueName": "research", "priorityClass": "batch"})
    job: Object = world.wait("the suspended Job", lambda: world.job("queue-train-1"))
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    status = world.until("queue", lambda seen: condition(seen, "Queued").get("reason") == "KueueNotResponding")
    assert "LocalQueue research" in condition(status, "Queued")["message"]
    workload = kueue.take(world.api, job, "couldn't assign flavors to pod set main: insufficient quota")
    status = world.until("queue", lambda seen: "insufficient quota" in condition(seen, "Queued").get("message", ""))
    assert condition(status, "Queued")["reason"] == "Queued"
    kueue.admit(world.api, job, workload, {"pool": "spot"})
    world.running("queue-train-1")
    status = world.until_phase("queue", "Running")
    assert condition(status, "Queued") == condition(status, "Queued") | {"status": "False", "reason": "Admitted"}
    kueue.evict(world.api, job, workload, "preempted by a job of higher priority")
    status = world.until("queue", lambda seen: condition(seen, "Queued").get("reason") == "Preempted")
    assert "higher priority" in condition(status, "Queued")["message"]
    world.wait("the pods are gone", lambda: not world.api.list(PODS, world.namespace, "rlhf.dev/job=queue"))
    # The same Job keeps its place: Kubernetes must not have counted its stopped pods as its failure.
    kept = world.job("queue-train-1")
    assert kept is not None
    assert kept["metadata"]["uid"] == job["metadata"]["uid"]
    kueue.admit(world.api, kept, workload, {"pool": "spot"})
    world.running("queue-train-1")
    status = world.until_phase("queue", "Running")
    assert (status["restarts"], [each["number"] for each in status["attempts"]]) == (0, [1, 1])
    # What Kueue injected is still there: the Job was never applied again.
    final = world.job("queue-train-1")
    assert final is not None
    assert final["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "spot"}


def test_a_claim_for_one_node_is_refused_before_anything_starts(world: World) -> None:
    world.api.create(PVCS, claim(world.namespace, "single", "ReadWriteOnce"))
    world.apply("mode", storage={"claimName": "single"})
    status = world.until("mode", lambda seen: condition(seen, "StorageReady").get("reason") == "AccessMode")
    assert "ReadWriteMany" in condition(status, "StorageReady")["message"]
    assert world.jobs("mode") == []


def test_what_is_missing_is_waited_for_and_then_used(world: World) -> None:
    grader = {"name": "gold", "grader": {"python": {"configMap": {"name": "gold", "key": "gold.py"}}}}
    world.apply("wait", scorers=[{"name": "short", "grader": {"length": {"max": 8}}}, grader], monitors=["gold"])
    status = world.until("wait", lambda seen: condition(seen, "ReferencesResolved").get("status") == "False")
    assert condition(status, "ReferencesResolved")["reason"] == "ConfigMapNotFound"
    assert world.jobs("wait") == []
    gold = {"metadata": {"name": "gold", "namespace": world.namespace}, "data": {"gold.py": "def grade(**_): return 1"}}
    world.api.create(CONFIGMAPS, gold)
    world.running("wait-train-1")


def test_what_is_not_supported_yet_is_named_before_a_pod_starts(world: World) -> None:
    world.apply("later", compute={"workers": 1, "zeroStage": 2, "offload": "Optimizer"}, rollout={"engine": "VLLM"})
    status = world.until_phase("later", "Stalled")
    assert condition(status, "Stalled")["reason"] == "NotSupportedYet"
    assert "compute.offload without GPUs, rollout.engine" in condition(status, "Stalled")["message"]
    assert world.jobs("later") == []


def test_a_template_is_refused_in_the_api_servers_words(world: World) -> None:
    bad = {
        "spec": {"containers": [{"name": "trainer", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}
    }
    world.apply("shape", compute={"workers": 2, "template": bad})
    status = world.until_phase("shape", "Stalled")
    assert condition(status, "Stalled")["reason"] == "TemplateInvalid"
    assert "must be less than or equal to cpu limit" in condition(status, "Stalled")["message"]
    assert world.jobs("shape") == []


def test_a_sidecar_keeps_no_job_from_finishing(world: World) -> None:
    sidecar = {"spec": {"containers": [{"name": "logs", "image": "logs:1"}]}}
    world.apply("sidecar", compute={"workers": 1, "template": sidecar})
    pod = world.running("sidecar-train-1", 1)[0]
    digest = world.until_phase("sidecar", "Running")["planDigest"]
    ended = {"name": "trainer", "image": "x", "imageID": "", "restartCount": 0, "ready": False}
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": verdict(digest)}}
    others = [each for each in pod["status"]["containerStatuses"] if each["name"] != "trainer"]
    patch = {"status": {"containerStatuses": [{**ended, "state": state}, *others]}}
    world.api.patch(PODS, world.namespace, pod["metadata"]["name"], patch, "status")
    world.publish("sidecar", 1, digest)
    world.until_phase("sidecar", "Complete")
    # Its pod ran on, and held what it had: it is gone.
    world.wait("the Job is deleted", lambda: world.job("sidecar-train-1") is None)


def test_the_verdict_arrives_though_the_pod_is_gone(world: World) -> None:
    world.apply("lost")
    pods = world.running("lost-train-1")
    digest = world.until_phase("lost", "Running")["planDigest"]
    # The operator must see pods only when they are gone: it is held off until then.
    world.api.patch(RLHFJOBS, world.namespace, "lost", {"metadata": {"annotations": {"rlhf.dev/paused": "true"}}})
    world.succeed("lost-train-1", digest)

    def done(job: Object) -> Any:
        return any(each["type"] == "Complete" for each in job.get("status", {}).get("conditions") or ())

    world.api.eventually(JOBS, world.namespace, "lost-train-1", done)
    for pod in pods:
        world.api.delete(PODS, world.namespace, pod["metadata"]["name"])
    world.wait("the pods are gone", lambda: not world.api.list(PODS, world.namespace, "rlhf.dev/job=lost"))
    world.api.patch(RLHFJOBS, world.namespace, "lost", {"metadata": {"annotations": {"rlhf.dev/paused": None}}})
    world.running("lost-collect-1", 1)
    assert condition(world.until_phase("lost", "Finishing"), "Complete")["status"] == "False"
    world.exit("lost-collect-1", {0: 0}, {0: verdict(digest)})
    world.publish("lost", 1, digest)
    status = world.until_phase("lost", "Complete")
    assert status["attempts"][0]["class"] == "Succeeded"


def test_a_gang_that_is_not_scheduled_is_given_up_in_the_schedulers_words(world: World) -> None:
    world.kubelet.hold = True
    world.apply("gang", timeouts={"startup": "2s"})
    status = world.until("gang", lambda seen: (seen.get("attempts") or [{}])[0].get("class"))
    assert status["attempts"][0]["class"] == "GangNotScheduled"
    # A cluster that is full is waited for; only failures of the run itself count.
    assert status["restarts"] == 0
    assert "Insufficient nvidia.com/gpu" in status["attempts"][0]["reason"]
    world.kubelet.hold = False
    world.running("gang-train-2")


def test_a_gate_that_failed_is_failed_with_its_figures(world: World) -> None:
    evaluation = {
        "dataset": {"configMap": {"name": "prompts", "key": "train.jsonl"}, "format": "Prompts"},
        "scorers": ["short"],
        "minWinRate": 0.55,
    }
    world.apply("gate", evaluation=evaluation)
    world.running("gate-train-1")
    digest = world.until_phase("gate", "Running")["planDigest"]
    world.succeed("gate-train-1", digest)
    words = "short over Base: win rate 0.520, lower bound 0.480 < minWinRate 0.55 (200 prompts)"
    world.publish("gate", 1, digest, gate="Failed", gateMessage=words)
    status = world.until_phase("gate", "Failed")
    assert condition(status, "Failed")["reason"] == "GateFailed"
    assert words in condition(status, "Failed")["message"]
    assert status["artifact"]["gate"] == "Failed"


def test_a_finished_job_goes_when_its_time_is_up(world: World) -> None:
    world.apply("brief", ttlSecondsAfterFinished=1)
    world.running("brief-train-1")
    digest = world.until_phase("brief", "Running")["planDigest"]
    world.succeed("brief-train-1", digest)
    world.publish("brief", 1, digest)
    world.wait("the object is deleted", lambda: world.api.get(RLHFJOBS, world.namespace, "brief") is None)
    world.wait("its children are deleted", lambda: not world.jobs("brief"), 180)


def test_deleting_leaves_nothing_but_the_claim(world: World) -> None:
    world.apply("gone", storage={"size": "1Gi"})
    world.running("gone-train-1")
    world.api.delete(RLHFJOBS, world.namespace, "gone")
    selector = "rlhf.dev/job=gone"

    def left() -> list[str]:
        kinds = (JOBS, PODS, CONFIGMAPS, SERVICES)
        return [each["metadata"]["name"] for kind in kinds for each in world.api.list(kind, world.namespace, selector)]

    world.wait("every child is deleted", lambda: not left(), 180)
    assert [each["metadata"]["name"] for each in world.api.list(PVCS, world.namespace, selector)] == ["gone-storage"]


def test_a_name_that_is_taken_is_said_and_used_when_it_is_free(world: World) -> None:
    container = {"name": "other", "image": "other:1"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    foreign = {"metadata": {"name": "taken-train-1", "namespace": world.namespace}, "spec": {"template": template}}
    world.api.create(JOBS, foreign)
    world.apply("taken")
    status = world.until("taken", lambda seen: condition(seen, "Ready").get("reason") == "NameTaken")
    assert "taken-train-1" in condition(status, "Ready")["message"]
    world.api.delete(JOBS, world.namespace, "taken-train-1")
    world.running("taken-train-1")
    world.until_phase("taken", "Running")


def test_nothing_is_written_when_nothing_happens(world: World) -> None:
    world.apply("calm")
    world.running("calm-train-1")
    world.until_phase("calm", "Running")
    before = int(world.settled_version("calm"))
    # A change that means nothing to the job wakes it, and is answered by no write.
    label = {"metadata": {"labels": {"line": "assistant"}}}
    changed = world.api.patch(RLHFJOBS, world.namespace, "calm", label)
    assert int(changed["metadata"]["resourceVersion"]) > before
    assert world.settled_version("calm") == changed["metadata"]["resourceVersion"]

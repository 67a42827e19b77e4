"""Reading: what is looked up when, and what Kubernetes' objects become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Progress
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.measurements import PrometheusTarget, Round
from rlhf_operator.common.reader import ReadFailed, TemplateRejected
from rlhf_operator.common.resources import CONFIGMAPS, JOBS, PODS, PVCS, SECRETS, WORKLOADS, Resource
from rlhf_operator.rlhfjob.controller import RLHFJobController
from rlhf_operator.rlhfjob.run import run_spec
from rlhf_operator.rlhfjob.views import Observed
from rlhf_operator.runs import children
from rlhf_operator.runs.parsing import claim_view, frozen_plan_view, job_view, pod_view, workload_view
from rlhf_operator.runs.views import Refusal

from .factory import DEFAULTS, NOW, OWNER, SPEC, frozen, plan_of, verdict

CLAIM = {"metadata": {"name": "models"}, "spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}
PROMPTS = {"metadata": {"name": "prompts"}, "data": {"train.jsonl": "{}"}}
GOLD = {"metadata": {"name": "gold"}, "binaryData": {"gold.py": "cGFzcwo="}}


@dataclass
class FakeReader:
    """A Reader over dictionaries that counts what is asked of the API server."""

    live: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    failing: dict[str, ReadFailed] = field(default_factory=dict)
    children: dict[str, list[Manifest]] = field(default_factory=dict)
    events: list[Manifest] | None = None
    refusal: str | None = None
    answer: bytes | None = None
    asked: list[str] = field(default_factory=list)

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        return self.live.get((f"cached {resource.kind}", name))

    def owned(self, resource: Resource, namespace: str, owner_uid: str) -> Sequence[Manifest]:
        return self.children.get(f"{resource.kind} {owner_uid}", [])

    def mentioning(self, resource: Resource, namespace: str, kind: str, name: str) -> Sequence[Manifest]:
        return []

    def synced(self, resource: Resource) -> bool:
        return resource is not WORKLOADS

    async def fetch(self, resource: Resource, namespace: str | None, name: str) -> Manifest | None:
        self.asked.append(f"{resource.kind} {name}")
        if name in self.failing:
            raise self.failing[name]
        return self.live.get((resource.kind, name))

    async def events_of(self, namespace: str, uid: str) -> Sequence[Manifest]:
        self.asked.append(f"events of {uid}")
        if self.events is None:
            raise ReadFailed("403", forbidden=True)
        return self.events

    async def dry_run_create(self, manifest: Manifest) -> None:
        self.asked.append(f"dry run {manifest['metadata']['name']}")
        if self.refusal is not None:
            raise TemplateRejected(self.refusal)

    async def progress(self, pod_ip: str, port: int) -> bytes | None:
        self.asked.append(f"progress {pod_ip}:{port}")
        return self.answer

    async def measure(self, server: PrometheusTarget, queries: Mapping[str, str]) -> Round:
        raise AssertionError("a job asks no Prometheus")


def found() -> FakeReader:
    return FakeReader(
        live={
            (PVCS.kind, "models"): CLAIM,
            (CONFIGMAPS.kind, "prompts"): PROMPTS,
            (CONFIGMAPS.kind, "gold"): GOLD,
        }
    )


def manifest(status: Mapping[str, Any] | None = None, **spec: Any) -> Manifest:
    meta = {"name": "assistant", "namespace": "team", "uid": OWNER.uid, "generation": 1}
    return {"metadata": meta, "spec": {**SPEC, **spec}, "status": status or {}}


async def look(obj: Manifest, reader: FakeReader) -> Observed:
    return await RLHFJobController(DEFAULTS, lambda: NOW).observe(obj, reader)


async def test_references_are_looked_up_before_an_attempt() -> None:
    reader = found()
    view = await look(manifest(), reader)
    assert view.references is not None
    assert view.references.claims["models"].access_modes == ("ReadWriteMany",)
    assert view.references.config_maps["gold"] == {"gold.py": b"pass\n"}
    assert sorted(reader.asked) == ["ConfigMap gold", "ConfigMap prompts", "PersistentVolumeClaim models"]


IDLE: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
    ({"conditions": [{"type": "Complete", "status": "True"}]}, {}),
    ({"conditions": [{"type": "Failed", "status": "True"}]}, {}),
    ({}, {"suspend": True}),
    ({}, {"rollout": {"engine": "VLLM"}}),
    ({"attempts": [{"number": 1, "class": "Succeeded"}]}, {}),
    ({"attempts": [{"number": 1}]}, {}),
]


@pytest.mark.parametrize(("status", "spec"), IDLE)
async def test_nothing_is_asked_when_no_attempt_can_follow(status: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    reader = found()
    await look(manifest(status, **spec), reader)
    assert reader.asked == []


async def test_a_read_without_an_answer_is_kept_apart_from_what_does_not_exist() -> None:
    reader = found()
    reader.failing = {"prompts": ReadFailed("503"), "gold": ReadFailed("403", forbidden=True)}
    view = await look(manifest(), reader)
    assert view.references is not None
    assert view.references.unread == {"ConfigMap prompts": "503", "ConfigMap gold": "403"}


async def test_secrets_that_may_not_be_read_do_not_hold_a_job_up() -> None:
    reader = found()
    reader.failing = {"model-key": ReadFailed("403", forbidden=True)}
    view = await look(manifest(output={"signing": {"secretRef": {"name": "model-key"}}}), reader)
    assert view.references is not None
    assert view.references.unchecked == {"model-key"}
    plan = RLHFJobController(DEFAULTS).reconcile(view, NOW)
    assert len(plan.create) == 2
    assert "model-key" in str(plan.status)


async def test_of_a_secret_only_the_keys_are_kept() -> None:
    reader = found()
    reader.live[(SECRETS.kind, "model-key")] = {"metadata": {"name": "model-key"}, "data": {"key.pem": "c2VjcmV0"}}
    view = await look(manifest(output={"signing": {"secretRef": {"name": "model-key"}}}), reader)
    assert view.references is not None
    assert view.references.secrets == {"model-key": {"key.pem"}}
    assert "c2VjcmV0" not in repr(view)


async def test_a_template_is_tried_before_it_is_used() -> None:
    reader = found()
    reader.refusal = "spec.template.spec.priority: Invalid value"
    template = {"spec": {"priority": 5}}
    view = await look(manifest(compute={"workers": 2, "template": template}), reader)
    assert view.refusal == Refusal(reader.refusal, permanent=True)
    assert reader.asked[-1] == "dry run assistant-train-1"


async def test_a_broken_status_does_not_hide_the_attempts() -> None:
    view = await look(manifest({"attempts": [{"number": 3, "class": "Crash"}], "progress": "half"}), found())
    assert [record.number for record in view.status.attempts] == [3]


async def test_a_spec_of_another_version_is_told_by_field() -> None:
    view = await look(manifest(training={"steps": -1, "batchSize": 1}), found())
    assert view.spec is None
    assert view.spec_problem.startswith("training.steps:")


def running_pod(index: int) -> dict[str, Any]:
    status = {"phase": "Running", "podIP": f"10.0.0.{index}"}
    state = {"name": "trainer", "state": {"running": {}}, "started": True}
    return {
        "metadata": {
            "name": f"p-{index}",
            "uid": f"u-{index}",
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "spec": {"nodeName": "n"},
        "status": {**status, "containerStatuses": [state]},
    }


def train_job() -> dict[str, Any]:
    rendering = children.Rendering(OWNER, run_spec(OWNER, children_spec()), frozen(), "IfNotPresent")
    job = children.training_job(rendering, children.AttemptArguments(1, 4, 0))
    job["metadata"] |= {"uid": "job", "creationTimestamp": "2026-01-31T11:00:00Z"}
    return job | {"status": {"startTime": "2026-01-31T11:00:00Z"}}


def children_spec() -> Any:
    from .factory import spec_of

    return spec_of()


def live_reader(reading: Progress | None) -> FakeReader:
    reader = found()
    plan = children.plan_config_map(OWNER, children.freeze(OWNER, plan_of()))
    reader.children = {
        f"{JOBS.kind} {OWNER.uid}": [train_job()],
        f"{PODS.kind} job": [running_pod(0), running_pod(1)],
        f"{CONFIGMAPS.kind} {OWNER.uid}": [plan],
    }
    reader.answer = reading.model_dump_json(by_alias=True).encode() if reading is not None else None
    return reader


def reading(**fields: Any) -> Progress:
    values = {"planDigest": frozen().digest, "attempt": 1, "step": 2, "steps": 8, "updatedAt": NOW}
    return Progress.model_validate(values | fields)


RESOLVED = {
    "type": "ReferencesResolved",
    "status": "True",
    "reason": "Resolved",
    "message": "everything that the spec refers to is there",
    "observedGeneration": 1,
    "lastTransitionTime": "2026-01-31T11:00:00Z",
}
ATTEMPT = {
    "attempts": [{"number": 1, "from": "2026-01-31T11:00:00Z"}],
    "planDigest": frozen().digest,
    "conditions": [RESOLVED],
}


async def test_references_are_looked_up_once_more_when_the_status_that_told_of_them_was_lost() -> None:
    """The operator was killed between making the Job and writing its first status."""
    reader = live_reader(None)
    view = await look(manifest({}), reader)
    assert "ConfigMap prompts" in reader.asked
    plan = RLHFJobController(DEFAULTS).reconcile(view, NOW)
    assert plan.status is not None
    told = {each["type"]: each["reason"] for each in plan.status["conditions"]}
    assert "NotChecked" not in told.values(), told
    asked = len(reader.asked)
    await look(manifest(plan.status), reader)
    assert [each for each in reader.asked[asked:] if not each.startswith("progress")] == []


async def test_rank_0_is_asked_and_the_answer_reaches_status() -> None:
    reader = live_reader(
        reading(kl=1.5, warnings=["kl 1.5 > 1"], checkpointStep=2, checkpointDigest="sha256:" + "1" * 64)
    )
    view = await look(manifest(ATTEMPT), reader)
    assert reader.asked == ["progress 10.0.0.0:9400"]
    plan = RLHFJobController(DEFAULTS).reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["progress"]["kl"] == 1.5
    assert plan.status["checkpoint"]["step"] == 2
    assert "kl 1.5 > 1" in plan.status["message"]
    assert [event.reason for event in plan.events if event.type == "Warning"] == ["GuardWarning"]
    # Asked no sooner than the interval, and what was read stands meanwhile.
    again = await look(manifest(plan.status), reader)
    assert len(reader.asked) == 1
    later = RLHFJobController(DEFAULTS).reconcile(again, NOW + timedelta(seconds=1))
    assert later.status == plan.status


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"<html>",
        reading(attempt=2).model_dump_json(by_alias=True).encode(),
        reading(planDigest="sha256:" + "9" * 64).model_dump_json(by_alias=True).encode(),
    ],
)
async def test_what_is_no_reading_of_this_attempt_changes_nothing(answer: bytes | None) -> None:
    reader = live_reader(None)
    reader.answer = answer
    known = {**ATTEMPT, "progress": {"step": 1, "steps": 8, "updatedAt": "2026-01-31T11:30:00Z"}}
    view = await look(manifest(known), reader)
    assert view.progress is None
    plan = RLHFJobController(DEFAULTS).reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["progress"] == known["progress"]


def failed_create(note: str, at: str, reason: str = "FailedCreate") -> Manifest:
    return {"metadata": {"name": at}, "reason": reason, "note": note, "deprecatedLastTimestamp": at}


async def test_pods_that_can_not_be_created_are_told_in_the_job_controllers_words() -> None:
    reader = live_reader(None)
    reader.children[f"{PODS.kind} job"] = [running_pod(0)]
    quota = 'Error creating: pods "assistant-train-1-1-x7k2p" is forbidden: exceeded quota: small'
    reader.events = [
        failed_create("Error creating: something older", "2026-01-31T11:00:10Z"),
        failed_create(quota, "2026-01-31T11:30:00Z"),
        failed_create("Created pod", "2026-01-31T11:45:00Z", "SuccessfulCreate"),
    ]
    view = await look(manifest(ATTEMPT), reader)
    assert reader.asked == ["events of job"]
    plan = RLHFJobController(DEFAULTS).reconcile(view, NOW - timedelta(minutes=50))
    assert plan.status is not None
    words = 'pods "assistant-train-1-…" is forbidden: exceeded quota: small'
    assert words in plan.status["message"]
    # Looked at again, since nothing of ours changes when the quota does.
    assert plan.wake_at == NOW - timedelta(minutes=49)
    late = RLHFJobController(DEFAULTS).reconcile(view, NOW)
    assert late.status is not None
    assert late.status["attempts"][-1]["class"] == "GangNotScheduled"
    assert words in late.status["attempts"][-1]["reason"]


async def test_without_a_right_to_events_only_the_words_are_missing() -> None:
    reader = live_reader(None)
    reader.children[f"{PODS.kind} job"] = [running_pod(0)]
    view = await look(manifest(ATTEMPT), reader)
    assert (view.pod_refusal, reader.asked) == (None, ["events of job"])


def test_a_pod_is_judged_by_the_trainer_alone() -> None:
    pod = running_pod(0)
    terminated = {"exitCode": 137, "reason": "OOMKilled", "message": "m", "finishedAt": "2026-01-31T12:00:00Z"}
    pod["status"]["containerStatuses"] = [
        {"name": "logs", "state": {"running": {}}},
        {"name": "trainer", "state": {"terminated": terminated}},
    ]
    pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
    view = pod_view(pod)
    assert (view.exit_code, view.exit_reason, view.ended) == (137, "OOMKilled", True)
    assert view.ended_at == NOW
    assert view.disruption == "EvictionByEvictionAPI"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]},
            "p-0: 0/3 nodes are available",
        ),
        (
            {
                "containerStatuses": [
                    {"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": "x"}}}
                ]
            },
            "p-0: ErrImagePull x",
        ),
        ({"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, None),
    ],
)
def test_what_keeps_a_pod_is_quoted(status: dict[str, Any], words: str | None) -> None:
    pod = {**running_pod(0), "status": status}
    assert pod_view(pod).waiting == words


def test_a_jobs_verdict_is_that_of_index_0() -> None:
    said = verdict().encode().decode()
    pods = [running_pod(0), running_pod(1)]
    for pod, message in zip(pods, (said, "not json"), strict=True):
        pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0, "message": message}}
    view = job_view(train_job(), pods)
    assert view.verdict == verdict()
    assert (view.attempt, view.role, view.workers, view.micro_batch_size) == (1, "train", 2, 4)
    assert job_view(train_job(), pods[1:]).verdict is None


@pytest.mark.parametrize("kind", ["Complete", "Failed", "Suspended"])
def test_a_jobs_end_is_the_controllers_word(kind: str) -> None:
    ended = train_job()
    ended["status"]["conditions"] = [{"type": kind, "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"}]
    assert job_view(ended, ()).ended_at == NOW


def test_success_is_not_believed_of_a_trainer_that_exited_otherwise() -> None:
    pod = running_pod(0)
    ended = {"exitCode": 70, "message": verdict().encode().decode()}
    pod["status"]["containerStatuses"][0]["state"] = {"terminated": ended}
    assert job_view(train_job(), [pod]).verdict is None
    failed = verdict(failure="Crash", reason="Crash", message="m")
    pod["status"]["containerStatuses"][0]["state"] = {"terminated": ended | {"message": failed.encode().decode()}}
    assert job_view(train_job(), [pod]).verdict == failed


def test_a_bound_claim_has_the_modes_that_it_got() -> None:
    claim = {**CLAIM, "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"]}}
    assert claim_view(claim).access_modes == ("ReadWriteOnce",)


def test_a_workload_is_read_in_kueues_words() -> None:
    conditions = [
        {"type": "QuotaReserved", "status": "False", "message": "insufficient quota"},
        {"type": "Evicted", "status": "True", "reason": "Preempted"},
    ]
    view = workload_view({"metadata": {"name": "w"}, "status": {"conditions": conditions}})
    assert (view.evicted, view.message) == ("Preempted", "insufficient quota")


def test_a_plan_of_another_version_keeps_its_digest() -> None:
    config_map = {"metadata": {"name": "p"}, "data": {"plan.json": '{"name":"x","novelty":1}'}}
    view = frozen_plan_view(config_map, TrainingPlan)
    assert view.plan is None
    assert view.digest.startswith("sha256:")
    assert "novelty" in str(view.read())

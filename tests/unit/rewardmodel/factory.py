"""Observations for tests: one RewardModel at any point of its way; and a cluster in memory that obeys its plans."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rlhf_operator.api.result import TerminationMessage
from rlhf_operator.api.rewardmodel import RewardModelSpec, RewardModelStatus
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_operator.common.hashes import sha256_of, short
from rlhf_operator.common.intents import Manifest, OperatorDefaults, Plan
from rlhf_operator.common.measurements import PrometheusTarget, Round
from rlhf_operator.common.names import Owner
from rlhf_operator.common.reader import ReadFailed, TemplateRejected
from rlhf_operator.common.resources import ENDPOINTSLICES, PVCS, SCALEDOBJECTS, WORKLOADS, Resource, resource_of
from rlhf_operator.rewardmodel.gate import gate_name
from rlhf_operator.rewardmodel.plan import resolve
from rlhf_operator.runs.views import ClaimView, References

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
OWNER = Owner("RewardModel", "team", "helpful", "11111111-2222-3333-4444-555555555555")
DEFAULTS = OperatorDefaults(
    trainer_image="registry.example/trainer:1",
    server_image="registry.example/server:1",
    prometheus_url="http://prometheus.monitoring:9090",
)

SPEC: Mapping[str, Any] = {
    "source": {
        "train": {
            "baseModel": {"pvc": {"claimName": "models", "path": "encoder"}},
            "dataset": {
                "configMap": {"name": "pairs", "key": "pairs.jsonl"},
                "format": "Pairs",
                "columns": {"prompt": "instruction", "chosen": "good", "rejected": "bad"},
            },
            "training": {"epochs": 2, "batchSize": 16, "microBatchSize": 4},
        }
    },
    "evaluation": {"split": {"folds": 5}, "minAccuracy": 0.55, "minLowerBound": 0.5},
    "storage": {"claimName": "models"},
}

GRADERS: Mapping[str, Any] = {
    "graders": [{"name": "short", "grader": {"length": {"unit": "Words", "max": 8}}}],
}

CONFIG_MAPS = {"pairs": {"pairs.jsonl": '{"instruction": "a", "good": "b", "bad": "c"}\n'}}

FOUND = References(
    claims={"models": ClaimView("models", ("ReadWriteMany",), "Bound")},
    config_maps={name: {key: text.encode() for key, text in data.items()} for name, data in CONFIG_MAPS.items()},
)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes at any level; None removes a field."""
    result = dict(values)
    for name, change in changes.items():
        if change is None:
            result.pop(name, None)
        elif isinstance(change, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = merged(result[name], change)
        else:
            result[name] = copy.deepcopy(change)
    return result


def spec_of(**changes: Any) -> RewardModelSpec:
    """The spec with changes."""
    return RewardModelSpec.model_validate(merged(SPEC, changes))


def plan_of(spec: RewardModelSpec | None = None) -> RewardPlan:
    """The plan of a spec."""
    return resolve(OWNER, spec or spec_of(), FOUND, DEFAULTS)


def digest_of(name: str) -> str:
    """A version's digest, by any name."""
    return sha256_of(name.encode())


def version(name: str = "one", gate: str = "Passed", **fields: Any) -> dict[str, Any]:
    """A recorded version."""
    digest = digest_of(name)
    record = {
        "digest": digest,
        "gate": gate,
        "ref": f"pvc://models/reward-models/helpful/{digest.replace(':', '-')}",
        "planDigest": digest_of(f"plan of {name}"),
        "scorer": "Model",
        "dimensions": ["overall"],
        "limits": {"minAccuracy": 0.55, "minLowerBound": 0.5},
        "at": NOW.isoformat(),
    }
    return record | fields


def verdict(plan_digest: str, name: str, gate: str = "Passed", attempt: int = 1) -> TerminationMessage:
    """The publish pod's word."""
    digest = digest_of(name)
    figures = {
        "dimension": "overall",
        "pairs": 200,
        "prompts": 150,
        "accuracy": 0.64 if gate != "Failed" else 0.51,
        "accuracyInterval": [0.57, 0.71] if gate != "Failed" else [0.44, 0.58],
        "calibrationError": 0.04,
        "lengthBias": 0.2,
    }
    place = "pvc://models/reward-models/helpful" if gate != "Failed" else "workspace://helpful-abc"
    return TerminationMessage.model_validate(
        {
            "planDigest": plan_digest,
            "attempt": attempt,
            "reason": "Published",
            "message": "done",
            "step": 8,
            "reward": figures,
            "figures": {"agreementAlpha": 0.41, "droppedRows": 6},
            "artifact": {
                "ref": f"{place}/{digest.replace(':', '-')}",
                "digest": digest,
                "gate": gate,
                "gateMessage": "" if gate != "Failed" else "accuracy 0.510 < minAccuracy 0.55",
                "datasetDigests": [digest_of("data")],
                "planDigest": plan_digest,
            },
        }
    )


def condition(status: Mapping[str, Any] | Plan, name: str) -> dict[str, Any]:
    """A condition of a status."""
    values = status.status if isinstance(status, Plan) else status
    assert values is not None
    found: dict[str, Any] = next(each for each in values["conditions"] if each["type"] == name)
    return found


def is_status(status: Mapping[str, Any] | Plan, name: str) -> str:
    """Status and reason of a condition as `True/Reason`."""
    found = condition(status, name)
    return f"{found['status']}/{found['reason']}"


@dataclass
class World:
    """Objects by kind and name, and what plans make of them: a Reader, without an API server."""

    spec: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(dict(SPEC)))
    now: datetime = NOW
    generation: int = 1
    status: dict[str, Any] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    rlhf_jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    keda: bool = False
    count: int = 0
    frozen_slices: list[dict[str, Any]] | None = None
    """What the EndpointSlices say while their controller lags; None: what is so."""
    refusal: str | None = None
    """What the API server says of Deployments that are offered to it."""
    offered: list[str] = field(default_factory=list)
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: dict(CONFIG_MAPS))

    @property
    def manifest(self) -> dict[str, Any]:
        """The RewardModel as the API server has it."""
        meta = {"name": OWNER.name, "namespace": OWNER.namespace, "uid": OWNER.uid, "generation": self.generation}
        return {"metadata": meta, "spec": self.spec, "status": copy.deepcopy(self.status)}

    def change(self, **changes: Any) -> None:
        """The user edits the spec."""
        self.spec = merged(self.spec, changes)
        self.generation += 1

    def later(self, **by: float) -> None:
        """Time passes."""
        self.now += timedelta(**by)

    # -- Reader

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        return self.objects.get((resource.kind, name))

    def owned(self, resource: Resource, namespace: str, owner_uid: str) -> list[Manifest]:
        if resource.kind == "Pod":
            found: list[Manifest] = [
                pod for pod in self.pods if any(o["uid"] == owner_uid for o in pod["metadata"]["ownerReferences"])
            ]
            return found
        return [
            each
            for (kind, _), each in self.objects.items()
            if kind == resource.kind
            and any(o["uid"] == owner_uid for o in each["metadata"].get("ownerReferences") or ())
        ]

    def mentioning(self, resource: Resource, namespace: str, kind: str, name: str) -> list[Manifest]:
        if resource == ENDPOINTSLICES:
            return list(self.slices() if self.frozen_slices is None else self.frozen_slices)
        return list(self.rlhf_jobs.values()) if resource.kind == "RLHFJob" else []

    def synced(self, resource: Resource) -> bool:
        return self.keda if resource == SCALEDOBJECTS else resource != WORKLOADS

    async def fetch(self, resource: Resource, namespace: str | None, name: str) -> Manifest | None:
        if resource == PVCS:
            return {
                "metadata": {"name": name},
                "spec": {"accessModes": ["ReadWriteMany"]},
                "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]},
            }
        if name in self.config_maps:
            return {"metadata": {"name": name}, "data": self.config_maps[name]}
        return None

    async def events_of(self, namespace: str, uid: str) -> list[Manifest]:
        raise ReadFailed("nobody is asked")

    async def dry_run_create(self, manifest: Manifest) -> None:
        self.offered.append(manifest["metadata"]["name"])
        if self.refusal is not None and manifest["kind"] == "Deployment":
            raise TemplateRejected(self.refusal)

    async def progress(self, pod_ip: str, port: int) -> bytes | None:
        return None

    async def measure(self, server: PrometheusTarget, queries: Mapping[str, str]) -> Round:
        raise AssertionError("a reward model asks no Prometheus")

    # -- Executor

    def execute(self, plan: Plan) -> None:
        """Obey: creations appear, deletions are instant, the status is what was written."""
        for manifest in (*plan.apply, *plan.create):
            key = (manifest["kind"], manifest["metadata"]["name"])
            known = self.objects.get(key)
            resource_of(manifest["apiVersion"], manifest["kind"])
            if known is None:
                self.count += 1
                made = copy.deepcopy(dict(manifest))
                made["metadata"] |= {
                    "uid": f"uid-{self.count}",
                    "generation": 1,
                    "creationTimestamp": self.now.isoformat(),
                }
                made["status"] = {"startTime": self.now.isoformat()} if key[0] == "Job" else {}
                self.objects[key] = made
            elif manifest in plan.apply:
                if json.dumps(known["spec"] if "spec" in known else known.get("data"), sort_keys=True) != json.dumps(
                    manifest.get("spec", manifest.get("data")), sort_keys=True
                ):
                    known["metadata"]["generation"] += 1
                known.update(
                    {name: copy.deepcopy(value) for name, value in manifest.items() if name in ("spec", "data")}
                )
                known["metadata"]["labels"] = dict(manifest["metadata"]["labels"])
        for delete in plan.delete:
            known = self.objects.get((delete.resource.kind, delete.name))
            if known is not None and known["metadata"]["uid"] == delete.uid:
                del self.objects[delete.resource.kind, delete.name]
                self.pods = [
                    pod for pod in self.pods if all(o["uid"] != delete.uid for o in pod["metadata"]["ownerReferences"])
                ]
        if plan.status is not None:
            RewardModelStatus.model_validate(plan.status)
            self.status = json.loads(json.dumps(plan.status))

    # -- what others do

    def names(self, kind: str) -> list[str]:
        """Names of the objects of a kind, sorted."""
        return sorted(name for found, name in self.objects if found == kind)

    def jobs(self, role: str) -> list[dict[str, Any]]:
        """Jobs of a role."""
        return [
            each
            for (kind, _), each in self.objects.items()
            if kind == "Job" and each["metadata"]["labels"]["rlhf.dev/role"] == role
        ]

    def end(self, job: dict[str, Any], message: TerminationMessage | None, code: int = 0) -> None:
        """The only pod of a Job ends."""
        meta = job["metadata"]
        text = message.encode().decode() if message is not None else ""
        pod = {
            "metadata": {
                "name": f"{meta['name']}-0-abcde",
                "uid": f"pod-of-{meta['uid']}",
                "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
                "ownerReferences": [{"uid": meta["uid"]}],
            },
            "spec": {"nodeName": "node-a"},
            "status": {
                "phase": "Failed" if code else "Succeeded",
                "containerStatuses": [
                    {
                        "name": "trainer",
                        "state": {
                            "terminated": {
                                "exitCode": code,
                                "message": text,
                                "finishedAt": self.now.isoformat(),
                                "reason": "Error" if code else "Completed",
                            }
                        },
                    }
                ],
            },
        }
        self.pods.append(pod)
        kind = "Failed" if code else "Complete"
        ended = {"type": kind, "status": "True", "lastTransitionTime": self.now.isoformat()}
        job["status"] |= {"conditions": [ended]}

    def train(self) -> None:
        """The newest training Job succeeds."""
        job = self.jobs("train")[-1]
        attempt = int(job["metadata"]["labels"]["rlhf.dev/attempt"])
        digest = self.plan_digest
        word = {"planDigest": digest, "attempt": attempt, "reason": "Complete", "message": "8 steps", "step": 8}
        self.end(job, TerminationMessage.model_validate(word))

    def publish(self, name: str, gate: str = "Passed") -> None:
        """The newest publish Job ends with a record."""
        self.end(self.jobs("publish")[-1], verdict(self.plan_digest, name, gate))

    @property
    def plan_digest(self) -> str:
        """The plan in force."""
        digest: str = self.status["run"]["planDigest"]
        return digest

    def answer(self, name: str | None = None) -> None:
        """The Deployment controller brings the pods of a Deployment up; of all without a name."""
        for (kind, found), each in self.objects.items():
            if kind == "Deployment" and name in (None, found):
                replicas = each["spec"]["replicas"]
                each["status"] = {
                    "observedGeneration": each["metadata"]["generation"],
                    "replicas": replicas,
                    "updatedReplicas": replicas,
                    "availableReplicas": replicas,
                }

    def slices(self) -> list[dict[str, Any]]:
        """The EndpointSlices of all Services, as Kubernetes makes them."""
        tag = "rlhf.dev/version"
        pods = {
            each["metadata"]["labels"].get(tag): each["status"].get("availableReplicas", 0)
            for (kind, _), each in self.objects.items()
            if kind == "Deployment"
        }
        return [
            {
                "metadata": {
                    "name": f"{name}-abcde",
                    "labels": each["metadata"]["labels"] | {"kubernetes.io/service-name": name},
                },
                "endpoints": [
                    {"conditions": {"ready": True}} for _ in range(pods.get(each["spec"]["selector"].get(tag), 0))
                ],
            }
            for (kind, name), each in self.objects.items()
            if kind == "Service"
        ]

    def late(self, name: str) -> None:
        """The pods of a Deployment were not ready in time."""
        each = self.objects["Deployment", name]
        failed = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        each["status"] = {
            "observedGeneration": each["metadata"]["generation"],
            "replicas": 1,
            "updatedReplicas": 1,
            "conditions": [failed],
        }

    def leads_to(self) -> str | None:
        """The version tag that the stable Service selects."""
        service = self.objects.get(("Service", OWNER.name))
        return service["spec"]["selector"]["rlhf.dev/version"] if service is not None else None

    @property
    def gate(self) -> str:
        """The name of the limits in force."""
        return gate_name(RewardModelSpec.model_validate(self.spec))

    @property
    def plan_label(self) -> str:
        """The plan in force, as labels have it."""
        return short(self.plan_digest)

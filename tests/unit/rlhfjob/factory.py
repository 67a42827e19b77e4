"""Observations for tests: one job, its Jobs and pods, at any point of its way; and a cluster in memory that obeys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import TerminationMessage
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.intents import OperatorDefaults, Plan
from rlhf_operator.common.names import Owner
from rlhf_operator.rlhfjob.plan import resolve
from rlhf_operator.rlhfjob.views import Observed
from rlhf_operator.runs import children
from rlhf_operator.runs.parsing import frozen_plan_view, job_view
from rlhf_operator.runs.views import ClaimView, FrozenPlan, JobView, PodView, References

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
OWNER = Owner("RLHFJob", "team", "assistant", "11111111-2222-3333-4444-555555555555")
DEFAULTS = OperatorDefaults(trainer_image="registry.example/trainer:1")
DIGEST = "sha256:" + "d" * 64

SPEC: Mapping[str, Any] = {
    "baseModel": {"pvc": {"claimName": "models", "path": "base"}},
    "dataset": {"configMap": {"name": "prompts", "key": "train.jsonl"}, "format": "Prompts"},
    "scorers": [
        {"name": "short", "grader": {"length": {"unit": "Words", "max": 8}}},
        {"name": "gold", "grader": {"python": {"configMap": {"name": "gold", "key": "gold.py"}}}},
    ],
    "rewards": [{"scorer": "short", "weight": 0.5}],
    "monitors": ["gold"],
    "training": {"steps": 8, "batchSize": 16, "microBatchSize": 4},
    "ppo": {"miniBatches": 2},
    "compute": {"workers": 2},
    "storage": {"claimName": "models"},
}

FOUND = References(
    claims={"models": ClaimView("models", ("ReadWriteMany",), "Bound")},
    config_maps={
        "prompts": {"train.jsonl": b'{"prompt": "a"}\n'},
        "gold": {"gold.py": b"def grade(**row): return 1\n"},
    },
)


def spec_of(**changes: Any) -> RLHFJobSpec:
    """The spec with changes at its top level; None removes a field."""
    values = copy.deepcopy(dict(SPEC)) | changes
    return RLHFJobSpec.model_validate({name: value for name, value in values.items() if value is not None})


def plan_of(spec: RLHFJobSpec | None = None) -> TrainingPlan:
    """The plan of a spec."""
    return resolve(OWNER, spec or spec_of(), FOUND, DEFAULTS)


def frozen(spec: RLHFJobSpec | None = None) -> FrozenPlan:
    """The plan as its ConfigMap holds it."""
    return frozen_plan_view(children.plan_config_map(OWNER, children.freeze(OWNER, plan_of(spec))), TrainingPlan)


def observed(spec: RLHFJobSpec | None = None, **changes: Any) -> Observed:
    """A job that was just created, its references found."""
    first = Observed(
        owner=OWNER,
        generation=1,
        spec=spec or spec_of(),
        status=RLHFJobStatus(),
        defaults=DEFAULTS,
        references=FOUND,
    )
    return replace(first, **changes)


def status_of(**fields: Any) -> RLHFJobStatus:
    """A recorded status."""
    return RLHFJobStatus.model_validate(fields)


def attempt(number: int = 1, class_: str | None = None, **fields: Any) -> dict[str, Any]:
    """One recorded attempt, begun an hour ago and, with a class, ended now."""
    record: dict[str, Any] = {"number": number, "from": NOW - timedelta(hours=1), "microBatchSize": 4}
    if class_ is not None:
        record |= {"class": class_, "reason": f"because of {class_}", "to": NOW}
    return record | fields


def verdict(**fields: Any) -> TerminationMessage:
    """Rank 0's word about the plan of `SPEC`."""
    values: dict[str, Any] = {
        "planDigest": plan_of().digest(),
        "attempt": 1,
        "reason": "Complete",
        "message": "8 steps done",
        "step": 8,
    }
    return TerminationMessage.model_validate(values | fields)


def pod(index: int = 0, **fields: Any) -> PodView:
    """A running pod of attempt 1."""
    running = PodView(
        name=f"assistant-train-1-{index}-abcde",
        uid=f"pod-{index}",
        index=index,
        phase="Running",
        node=f"node-{index}",
        ip=f"10.0.0.{index}",
        started=True,
    )
    return replace(running, **fields)


def dead(index: int, code: int, message: str = "", **fields: Any) -> PodView:
    """A pod whose trainer has exited."""
    phase = "Failed" if code else "Succeeded"
    return pod(index, phase=phase, exit_code=code, termination_message=message, **fields)


def job(number: int = 1, *pods: PodView, **fields: Any) -> JobView:
    """The Job of an attempt with two workers, an hour old."""
    running = JobView(
        name=f"assistant-train-{number}",
        uid=f"job-{number}",
        role="train",
        attempt=number,
        created_at=NOW - timedelta(hours=1),
        started_at=NOW - timedelta(hours=1),
        workers=2,
        pods=pods,
        micro_batch_size=4,
    )
    return replace(running, **fields)


def running(spec: RLHFJobSpec | None = None, *pods: PodView, **changes: Any) -> Observed:
    """A job whose first attempt runs."""
    state = {
        "plan": frozen(spec),
        "references": None,
        "status": status_of(attempts=[attempt()], planDigest=frozen(spec).digest),
        "attempts": (job(1, *(pods or (pod(0), pod(1)))),),
    }
    return observed(spec, **(state | changes))


def condition(plan_or_status: Plan | Mapping[str, Any], name: str) -> dict[str, Any]:
    """A condition of a status."""
    status = plan_or_status.status if isinstance(plan_or_status, Plan) else plan_or_status
    assert status is not None
    found: dict[str, Any] = next(each for each in status["conditions"] if each["type"] == name)
    return found


def is_status(plan: Plan, name: str) -> str:
    """Status and reason of a condition as `True/Reason`."""
    found = condition(plan, name)
    return f"{found['status']}/{found['reason']}"


@dataclass
class Cluster:
    """What a plan's writes make of an observation, without an API server: enough to reconcile again."""

    observed: Observed
    now: datetime = NOW
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)

    def execute(self, plan: Plan) -> None:
        """Obey: creations appear, deletions are instant, the status is what was written."""
        view = self.observed
        for manifest in plan.create:
            name = manifest["metadata"]["name"]
            match manifest["kind"]:
                case "ConfigMap":
                    view = replace(view, plan=frozen_plan_view(manifest, TrainingPlan))
                case "PersistentVolumeClaim":
                    modes = tuple(manifest["spec"]["accessModes"])
                    view = replace(view, claim=ClaimView(name, modes))
                case "Job":
                    self.created.append(name)
                    meta = {"uid": f"uid-{name}", "creationTimestamp": self.now.isoformat()}
                    made = {**manifest, "metadata": {**manifest["metadata"], **meta}, "status": {}}
                    if not manifest["spec"].get("suspend"):
                        made["status"] = {"startTime": self.now.isoformat()}
                    view = self._with(view, job_view(made, ()))
        for delete in plan.delete:
            view = self._without(view, delete.uid)
        if plan.status is not None:
            status = RLHFJobStatus.model_validate(plan.status)
            view = replace(view, status=status, raw_status=plan.status)
        self.observed = view

    def _with(self, view: Observed, made: JobView) -> Observed:
        if made.role == children.TRAIN:
            return replace(view, attempts=(*view.attempts, made))
        if made.role == children.PUBLISH:
            return replace(view, publish=made)
        return replace(view, collect=made)

    def _without(self, view: Observed, uid: str) -> Observed:
        left = tuple(each for each in view.attempts if each.uid != uid)
        publish = view.publish if view.publish is None or view.publish.uid != uid else None
        collect = view.collect if view.collect is None or view.collect.uid != uid else None
        service = view.service_uid if view.service_uid != uid else None
        return replace(view, attempts=left, publish=publish, collect=collect, service_uid=service)


def names(manifests: Any) -> list[str]:
    """Kind and name of each manifest."""
    return [f"{each['kind']}/{each['metadata']['name']}" for each in manifests]

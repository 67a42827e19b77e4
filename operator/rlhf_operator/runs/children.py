"""The manifests of a job's children: Jobs, Service, ConfigMaps, claim. Pure, deterministic; golden files hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api import plan as api
from rlhf_operator.api.exitcodes import ExitCode
from rlhf_operator.api.pods import ReclaimPolicy
from rlhf_operator.common.hashes import sha256_of, short
from rlhf_operator.common.names import ATTEMPT_LABEL, GATE_LABEL, PLAN_LABEL, ROLE_LABEL, Owner, metadata

from .plan import workspace
from .pods import pod_template
from .spec import RunSpec
from .storage import access_modes, storage_claim
from .views import TRAINER, FrozenPlan
from .volumes import base_mounts, input_mounts, output_mounts, settings_mounts, storage_mounts, token_mounts

KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
KUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
MICRO_BATCH_ANNOTATION = "rlhf.dev/micro-batch-size"

TRAIN, PUBLISH, COLLECT, PLAN, SETTINGS, STORAGE = "train", "publish", "collect", "plan", "settings", "storage"
GATE = "gate"

FAIL_FAST = (ExitCode.CONFIG, ExitCode.GUARD, ExitCode.OUT_OF_MEMORY)
"""Each a rule of its own, so that the Job's Failed condition names it even after the pod object is gone."""

COLLECT_DEADLINE_SECONDS = 900
PUBLISH_RETRIES = 3

_PLAN_FILE = f"{api.PLAN_PATH}/{api.PLAN_FILE}"
_SETTINGS_FILE = f"{api.SETTINGS_PATH}/{api.SETTINGS_FILE}"


@dataclass(frozen=True, slots=True)
class Rendering:
    """What every child is made from."""

    owner: Owner
    spec: RunSpec
    plan: FrozenPlan
    pull_policy: str

    @property
    def run_plan(self) -> api.RunPlan:
        """The plan, which must be readable."""
        plan = self.plan.read()
        if isinstance(plan, str):
            raise ValueError(plan)
        return plan

    @property
    def workspace(self) -> str:
        """The workspace's path in a pod."""
        return workspace(self.owner.name, self.plan.digest)

    def labels(self, role: str, attempt: int | None = None) -> dict[str, str]:
        """Return the labels of a child of this role."""
        labels = {self.owner.label: self.owner.name, ROLE_LABEL: role}
        if self.spec.many_plans:
            labels[PLAN_LABEL] = short(self.plan.digest)
        if attempt is not None:
            labels[ATTEMPT_LABEL] = str(attempt)
        return labels

    def pod_labels(self, role: str, attempt: int) -> dict[str, str]:
        """Return the labels of a pod of this role."""
        return self.owner.labels() | self.labels(role, attempt)


@dataclass(frozen=True, slots=True)
class AttemptArguments:
    """What differs from one attempt to the next."""

    number: int
    micro_batch_size: int
    min_checkpoint_step: int
    avoid_nodes: tuple[str, ...] = ()


def attempt_name(job: str, number: int) -> str:
    """Return the name of an attempt's Job; pods are named after it by their index."""
    return f"{job}-{TRAIN}-{number}"


def service_name(job: str) -> str:
    """Return the name of the headless Service that gives pods of all attempts their DNS names, if there are several."""
    return f"{job}-{TRAIN}"


def plan_name(job: str, digest: str) -> str:
    """Return the name of the plan's ConfigMap: another plan is another object."""
    return f"{job}-{PLAN}-{short(digest)}"


def settings_name(job: str) -> str:
    """Return the name of the live settings' ConfigMap."""
    return f"{job}-{SETTINGS}"


def gate_name(job: str, judged_by: str) -> str:
    """Return the name of the settings that one verdict is given by."""
    return f"{job}-{GATE}-{judged_by}"


def freeze(owner: Owner, plan: api.RunPlan) -> FrozenPlan:
    """Return a resolved plan as its ConfigMap will hold it: written out once."""
    text = plan.canonical()
    digest = sha256_of(text.encode())
    return FrozenPlan(plan_name(owner.name, digest), digest, text, type(plan), plan)


def plan_config_map(owner: Owner, plan: FrozenPlan) -> dict[str, Any]:
    """Return the plan, immutable: made once, then read by operator and pods alike."""
    labels = {owner.label: owner.name, ROLE_LABEL: PLAN, PLAN_LABEL: short(plan.digest)}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, plan.config_map, labels),
        "immutable": True,
        "data": {api.PLAN_FILE: plan.text},
    }


def settings_config_map(owner: Owner, spec: RunSpec) -> dict[str, Any]:
    """Return what may change while pods run."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, settings_name(owner.name), {owner.label: owner.name, ROLE_LABEL: SETTINGS}),
        "data": _settings(spec),
    }


def gate_config_map(owner: Owner, spec: RunSpec) -> dict[str, Any]:
    """Return the settings that one publish Job judges by: named by them, so that its verdict can't be another's."""
    labels = {owner.label: owner.name, ROLE_LABEL: GATE, GATE_LABEL: spec.judged_by}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, gate_name(owner.name, spec.judged_by), labels),
        "immutable": True,
        "data": _settings(spec),
    }


def _settings(spec: RunSpec) -> dict[str, str]:
    return {api.SETTINGS_FILE: spec.settings.model_dump_json(by_alias=True, exclude_none=True)}


def service(owner: Owner) -> dict[str, Any]:
    """Return the headless Service: pods are found by name before they are ready, for that is how they get ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, service_name(owner.name), {owner.label: owner.name, ROLE_LABEL: TRAIN}),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {owner.label: owner.name, ROLE_LABEL: TRAIN},
            "ports": [
                {"name": "rendezvous", "port": api.TORCHRUN_PORT, "protocol": "TCP", "targetPort": api.TORCHRUN_PORT},
                {"name": "metrics", "port": api.PROGRESS_PORT, "protocol": "TCP", "targetPort": api.PROGRESS_PORT},
            ],
        },
    }


def storage_claim_manifest(owner: Owner, spec: RunSpec) -> dict[str, Any]:
    """Return the claim made for the job. It outlives the job unless reclaimPolicy is Delete."""
    owned = spec.storage.reclaim_policy == ReclaimPolicy.DELETE
    labels = {owner.label: owner.name, ROLE_LABEL: STORAGE}
    claim: dict[str, Any] = {
        "accessModes": access_modes(spec),
        "resources": {"requests": {"storage": spec.storage.size}},
    }
    if spec.storage.storage_class_name is not None:
        claim["storageClassName"] = spec.storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(owner, storage_claim(owner.name, spec), labels, owned=owned),
        "spec": claim,
    }


def training_job(render: Rendering, attempt: AttemptArguments) -> dict[str, Any]:
    """Return the Indexed Job of one attempt. Created once; afterwards only read or deleted."""
    owner, spec, plan = render.owner, render.spec, render.run_plan
    name = attempt_name(owner.name, attempt.number)
    # Workers find each other by pod 0's name, which the Service gives it; one alone has nobody to find.
    subdomain = service_name(owner.name) if plan.compute.workers > 1 else None
    pod_zero = f"{name}-0.{subdomain}.{owner.namespace}.svc" if subdomain is not None else "localhost"
    template = pod_template(
        owner,
        spec,
        plan,
        labels=render.pod_labels(TRAIN, attempt.number),
        args=[
            "launch",
            *("--plan", _PLAN_FILE),
            *("--settings", _SETTINGS_FILE),
            *("--workspace", render.workspace),
            *("--attempt", str(attempt.number)),
            *("--micro-batch-size", str(attempt.micro_batch_size)),
            *("--min-checkpoint-step", str(attempt.min_checkpoint_step)),
        ],
        env=[
            _variable("RLHF_WORKERS", plan.compute.workers),
            _variable("RLHF_PROCS_PER_WORKER", plan.compute.procs_per_worker),
            _variable("RLHF_MASTER_ADDR", pod_zero),
            _variable("RLHF_MASTER_PORT", api.TORCHRUN_PORT),
            _variable("RLHF_GRACE_SECONDS", max(1, round(plan.checkpoints.grace_period_seconds))),
        ],
        mounts=base_mounts(render.plan.config_map)
        + storage_mounts(owner.name, spec)
        + input_mounts(owner.name, spec, plan)
        + token_mounts(spec)
        + settings_mounts(settings_name(owner.name)),
        pull_policy=render.pull_policy,
        training=True,
        avoid_nodes=attempt.avoid_nodes,
        subdomain=subdomain,
    )
    labels = render.labels(TRAIN, attempt.number)
    job: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": plan.compute.workers,
        "parallelism": plan.compute.workers,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": template,
    }
    if spec.compute.queue_name is not None:
        labels[KUEUE_QUEUE_LABEL] = spec.compute.queue_name
        if spec.compute.priority_class is not None:
            labels[KUEUE_PRIORITY_LABEL] = spec.compute.priority_class
        # From here on `suspend` is Kueue's.
        job["suspend"] = True
    child = metadata(owner, name, labels)
    child["annotations"] = {MICRO_BATCH_ANNOTATION: str(attempt.micro_batch_size)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": child, "spec": job}


def publish_job(render: Rendering, attempt: int) -> dict[str, Any]:
    """Return the one-shot Job that makes the artifact and gives the gate's verdict: the only pod with the key."""
    owner, spec, plan = render.owner, render.spec, render.run_plan
    args = [
        "publish",
        *("--plan", _PLAN_FILE),
        *("--workspace", render.workspace),
        *("--output", f"{api.OUTPUT_PATH}/{plan.output.path}"),
    ]
    if spec.output.signing is not None:
        args += ["--key", f"{api.SIGNING_KEY_PATH}/{spec.output.signing.key}"]
    mounts = base_mounts(render.plan.config_map) + output_mounts(owner.name, spec)
    if spec.judged_by:
        args += ["--settings", _SETTINGS_FILE]
        mounts += settings_mounts(gate_name(owner.name, spec.judged_by))
    template = pod_template(
        owner,
        spec,
        plan,
        labels=render.pod_labels(PUBLISH, attempt),
        args=args,
        mounts=mounts,
        pull_policy=render.pull_policy,
    )
    job = _one_shot(render, PUBLISH, attempt, template, backoff_limit=PUBLISH_RETRIES)
    if spec.judged_by:
        job["metadata"]["name"] += f"-{spec.judged_by}"
        job["metadata"]["labels"][GATE_LABEL] = spec.judged_by
    return job


def collect_job(render: Rendering, attempt: int) -> dict[str, Any]:
    """Return the Job that reads result.json for a pod that was gone before its word was read."""
    owner, spec = render.owner, render.spec
    template = pod_template(
        owner,
        spec,
        render.run_plan,
        labels=render.pod_labels(COLLECT, attempt),
        args=["collect", "--workspace", render.workspace, "--plan", _PLAN_FILE],
        mounts=base_mounts(render.plan.config_map) + storage_mounts(owner.name, spec, read_only=True),
        pull_policy=render.pull_policy,
    )
    job = _one_shot(render, COLLECT, attempt, template, backoff_limit=2)
    job["spec"]["activeDeadlineSeconds"] = COLLECT_DEADLINE_SECONDS
    return job


def _one_shot(
    render: Rendering, role: str, attempt: int, template: dict[str, Any], backoff_limit: int
) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(render.owner, f"{render.owner.name}-{role}-{attempt}", render.labels(role, attempt)),
        "spec": {
            "backoffLimit": backoff_limit,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [_exit_rule("FailJob", ExitCode.CONFIG), _disrupted("Ignore")]},
            "template": template,
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    return [
        *(_exit_rule("FailJob", code) for code in FAIL_FAST),
        _disrupted("FailJob"),
        # Kueue stops pods by suspending the Job: that must not count against backoffLimit 0.
        _exit_rule("Ignore", ExitCode.INTERRUPTED),
    ]


def _disrupted(action: str) -> dict[str, Any]:
    return {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _exit_rule(action: str, code: ExitCode) -> dict[str, Any]:
    values: Sequence[int] = [int(code)]
    return {"action": action, "onExitCodes": {"containerName": TRAINER, "operator": "In", "values": values}}


def _variable(name: str, value: object) -> dict[str, str]:
    return {"name": name, "value": str(value)}

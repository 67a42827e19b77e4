"""The manifests of the live judge and of what serving pods are told: plan, settings, keys, pods. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api import signals
from rlhf_operator.api.plan import TOKEN_FILE, TOKENS_PATH
from rlhf_operator.api.policyrollout import JudgeSettings
from rlhf_operator.api.signals import JudgePlan, SignalSettings
from rlhf_operator.common.engine import environment
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import ROLE_LABEL, Owner, metadata
from rlhf_operator.common.podsecurity import container_security, pod_security, scratch_mounts, scratch_volumes
from rlhf_operator.common.podtemplate import merge_template
from rlhf_operator.common.resources import DEPLOYMENTS
from rlhf_operator.common.scheduling import scheduling
from rlhf_operator.runs.addresses import secret_of

from .rendering import keys_name, signals_name

JUDGE = "judge"
TEMPLATE_FIELD = "spec.judge.template"
FROZEN_FILE = "deployment.json"
KEY_ANNOTATION = "rlhf.dev/rendered"
STATE_PATH = "/rlhf/state"
GRACE_SECONDS = 60
"""The judge scores what it has taken for 20 s after SIGTERM."""
RESOURCES: Mapping[str, Mapping[str, str]] = {
    "requests": {"cpu": "100m", "memory": "512Mi"},
    "limits": {"memory": "2Gi"},
}


@dataclass(frozen=True, slots=True)
class JudgePods:
    """The judge's Deployment as it was rendered once, and of what."""

    key: str
    deployment: Manifest


def judge_name(owner: str) -> str:
    """Return the name of the live judge."""
    return f"{owner}-judge"


def judge_url(owner: Owner) -> str:
    """Return the address of the judges' headless Service."""
    return f"http://{judge_name(owner.name)}.{owner.namespace}.svc:{signals.JUDGE_PORT}"


def judge_key(settings: JudgeSettings) -> str:
    """Return the name of a rendering: of what the user says about the judge's pods but their number."""
    said = settings.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"replicas", "sample_rate"})
    return sha256_of(json.dumps(said, sort_keys=True).encode()).removeprefix("sha256:")[:8]


def render_judge(owner: Owner, settings: JudgeSettings, defaults: OperatorDefaults) -> JudgePods:
    """Return the judge's pods, to be frozen. Raises TemplateConflict, ValueError."""
    return JudgePods(judge_key(settings), _deployment(owner, settings, defaults))


def judge_deployment(pods: JudgePods, replicas: int, plan: JudgePlan | None = None) -> dict[str, Any]:
    """Return a frozen Deployment with what is not frozen: its number of pods, and the tokens of the plan's scorers."""
    spec = {**pods.deployment["spec"], "replicas": replicas}
    graders = [each.grader for each in plan.scorers if each.grader is not None] if plan is not None else []
    if secrets := sorted({name for each in graders if (name := secret_of(each)) is not None}):
        spec["template"] = _with_tokens(spec["template"], secrets)
    return {**pods.deployment, "spec": spec}


def _with_tokens(template: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Return a pod template with these Secrets' tokens.

    A Secret that is missing keeps no pod from starting: the scorer that needs it says so until it is there.
    """
    pod = template["spec"]
    items = [{"key": TOKEN_FILE, "path": TOKEN_FILE}]
    named = {f"token-{number}": name for number, name in enumerate(secrets)}
    volumes = [
        {"name": volume, "secret": {"secretName": name, "items": items, "optional": True, "defaultMode": 0o440}}
        for volume, name in named.items()
    ]
    mounts = [
        {"name": volume, "mountPath": f"{TOKENS_PATH}/{name}", "readOnly": True} for volume, name in named.items()
    ]
    containers = [
        {**each, "volumeMounts": [*each["volumeMounts"], *mounts]} if each["name"] == JUDGE else each
        for each in pod["containers"]
    ]
    return {**template, "spec": {**pod, "containers": containers, "volumes": [*pod["volumes"], *volumes]}}


def judge_config_map(owner: Owner, plan: JudgePlan, pods: JudgePods) -> dict[str, Any]:
    """Return the judge's plan, beside the record of how its pods were rendered."""
    meta = metadata(owner, judge_name(owner.name), _labels(owner))
    meta["annotations"] = {KEY_ANNOTATION: pods.key}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {
            signals.JUDGE_PLAN_FILE: _json(plan.dump()),
            FROZEN_FILE: _json({**pods.deployment, "metadata": _without_owner(pods.deployment["metadata"])}),
        },
    }


def read_judge(config_map: Manifest, owner: Owner) -> JudgePods | None:
    """Return the record of the judge's pods; None where there is none."""
    text = (config_map.get("data") or {}).get(FROZEN_FILE)
    key = (config_map["metadata"].get("annotations") or {}).get(KEY_ANNOTATION)
    if text is None or key is None:
        return None
    frozen = json.loads(text)
    ours = {"namespace": owner.namespace, "ownerReferences": [owner.reference()]}
    return JudgePods(key, {**frozen, "metadata": frozen["metadata"] | ours})


def judge_service(owner: Owner) -> dict[str, Any]:
    """Return the headless Service: every serving pod finds every judge, and the halves of a pair meet in one."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, judge_name(owner.name), _labels(owner)),
        "spec": {
            "clusterIP": "None",
            "selector": _labels(owner),
            "ports": [
                {"name": "http", "port": signals.JUDGE_PORT, "protocol": "TCP", "targetPort": signals.JUDGE_PORT}
            ],
        },
    }


def judge_budget(owner: Owner) -> dict[str, Any]:
    """Return the judges' PodDisruptionBudget."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, judge_name(owner.name), _labels(owner)),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _labels(owner)}},
    }


def signals_config_map(owner: Owner, settings: SignalSettings) -> dict[str, Any]:
    """Return the live settings of all serving pods: they change without a restart."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, signals_name(owner.name), {owner.label: owner.name}),
        "data": {signals.SIGNALS_FILE: _json(settings.dump())},
    }


def keys_secret(owner: Owner, random: Callable[[], str]) -> dict[str, Any]:
    """Return the Secret of the rollout's keys: created once and never changed. random: gives 32 bytes of it as text."""
    keys = (signals.FEEDBACK_KEY_FILE, signals.PSEUDONYM_KEY_FILE, signals.SAMPLES_KEY_FILE)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(owner, keys_name(owner.name), {owner.label: owner.name}),
        "type": "Opaque",
        "stringData": {name: random() for name in keys},
    }


def _labels(owner: Owner) -> dict[str, str]:
    return {owner.label: owner.name, ROLE_LABEL: JUDGE}


def _deployment(owner: Owner, settings: JudgeSettings, defaults: OperatorDefaults) -> dict[str, Any]:
    labels = _labels(owner)
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": metadata(owner, judge_name(owner.name), labels),
        "spec": {
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": _pod(owner, settings, defaults, labels),
        },
    }


def _pod(owner: Owner, settings: JudgeSettings, defaults: OperatorDefaults, labels: dict[str, str]) -> dict[str, Any]:
    ready = {"path": "/readyz", "port": signals.JUDGE_PORT}
    container: dict[str, Any] = {
        "name": JUDGE,
        "image": settings.image or defaults.server_image,
        "imagePullPolicy": defaults.server_image_pull_policy,
        "command": ["python", "-m", "rlhf_server.livejudge"],
        "args": [
            *("--plan", f"{signals.JUDGE_PLAN_PATH}/{signals.JUDGE_PLAN_FILE}"),
            *("--port", str(signals.JUDGE_PORT)),
            *("--state", STATE_PATH),
            *("--keys", f"{signals.KEYS_PATH}/{signals.SAMPLES_KEY_FILE}"),
        ],
        "env": environment({}, settings),
        "ports": [{"name": "http", "containerPort": signals.JUDGE_PORT, "protocol": "TCP"}],
        "resources": {name: dict(entries) for name, entries in RESOURCES.items()},
        "volumeMounts": [
            *scratch_mounts(),
            {"name": "plan", "mountPath": signals.JUDGE_PLAN_PATH, "readOnly": True},
            {"name": "state", "mountPath": STATE_PATH},
            {"name": "keys", "mountPath": signals.KEYS_PATH, "readOnly": True},
        ],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "readinessProbe": {"httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": signals.JUDGE_PORT},
            "initialDelaySeconds": 30,
            "periodSeconds": 15,
            "timeoutSeconds": 5,
            "failureThreshold": 4,
        },
    }
    if settings.resources is not None:
        container["resources"] = settings.resources.dump()
    items = [{"key": signals.JUDGE_PLAN_FILE, "path": signals.JUDGE_PLAN_FILE}]
    # Of the rollout's keys this one alone: who judges can neither sign feedback tokens nor undo pseudonyms.
    keys = [{"key": signals.SAMPLES_KEY_FILE, "path": signals.SAMPLES_KEY_FILE}]
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [
            *scratch_volumes(),
            {"name": "plan", "configMap": {"name": judge_name(owner.name), "items": items}},
            # Outlives the container: what was counted is not counted again after a restart.
            {"name": "state", "emptyDir": {}},
            {"name": "keys", "secret": {"secretName": keys_name(owner.name), "items": keys, "defaultMode": 0o440}},
        ],
        **scheduling(settings),
    }
    ours = {
        "metadata": {
            "labels": owner.labels() | labels,
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(signals.JUDGE_PORT),
                "prometheus.io/path": "/metrics",
            },
        },
        "spec": pod,
    }
    if settings.template is None:
        return ours
    return merge_template(ours, settings.template, main=JUDGE, at=TEMPLATE_FIELD)


def _without_owner(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name not in ("ownerReferences", "namespace")}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))

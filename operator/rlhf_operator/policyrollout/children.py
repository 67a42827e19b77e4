"""The manifests of a revision's pods: texts, Deployment, Service, budget. Pure; golden files hold them.

What is rendered here is frozen with its revision (revisions.py). Route, judge and live settings have their own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api import signals
from rlhf_operator.api.policyrollout import PolicyRolloutSpec, Sink
from rlhf_operator.common.engine import CPU_ENV, OFFLINE_ENV, environment, gpus
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import REVISION_LABEL, ROLE_LABEL, Owner, metadata
from rlhf_operator.common.podsecurity import container_security, pod_security, scratch_mounts, scratch_volumes
from rlhf_operator.common.podtemplate import TemplateConflict, merge_template
from rlhf_operator.common.resources import DEPLOYMENTS
from rlhf_operator.common.scheduling import scheduling

from .views import Source

SERVER, VERIFY = "server", "verify"
ARTIFACT_PATH, CACHE_PATH = "/rlhf/artifact", "/rlhf/cache"
"""Where a pod with a cache has the artifact, which only `verify` reads, and the verified copies."""
SERVICE_PORT = 80
TEMPLATE_FIELD = "spec.serving.template"
PROBE_SECONDS = 5
AVAILABLE_SECONDS = 2
"""A pod counts this long after it is ready: every proxy and gateway has it among its endpoints by then."""
KEEP_ALIVE_SECONDS = 3900
GRACE_AFTER_DRAIN_SECONDS = 30
KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
IDLE_ANNOTATION = "rlhf.dev/idle-since"
DIGEST_ANNOTATION = "rlhf.dev/artifact-digest"
REF_ANNOTATION = "rlhf.dev/artifact-ref"


@dataclass(frozen=True, slots=True)
class Texts:
    """What changes a model's behaviour beside its weights, as read from ConfigMaps."""

    system_prompt: str | None = None
    chat_template: str | None = None

    def files(self) -> dict[str, str]:
        """Return file name → content."""
        named = {signals.SYSTEM_PROMPT_FILE: self.system_prompt, signals.CHAT_TEMPLATE_FILE: self.chat_template}
        return {name: text for name, text in named.items() if text is not None}


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything that a revision's objects are made of."""

    owner: Owner
    revision: str
    source: Source
    spec: PolicyRolloutSpec
    texts: Texts
    image: str
    pull_policy: str

    @property
    def name(self) -> str:
        """Name of everything that belongs to the revision."""
        return revision_name(self.owner.name, self.revision)


def revision_name(owner: str, revision: str) -> str:
    """Return the name of everything that belongs to a revision."""
    return f"{owner}-{revision}"


def signals_name(owner: str) -> str:
    """Return the name of the ConfigMap with the live settings."""
    return f"{owner}-signals"


def keys_name(owner: str) -> str:
    """Return the name of the Secret with the rollout's keys."""
    return f"{owner}-keys"


def labels_of(owner: Owner, revision: str) -> dict[str, str]:
    """Return the labels by which a revision's pods are selected."""
    return {owner.label: owner.name, REVISION_LABEL: revision, ROLE_LABEL: SERVER}


def image_of(spec: PolicyRolloutSpec, defaults: OperatorDefaults) -> str:
    """Return the image of the serving pods."""
    return spec.serving.image or defaults.server_image


def render(made: Rendering) -> tuple[Manifest, ...]:
    """Return a revision's objects, to be frozen. Raises TemplateConflict, ValueError."""
    texts = [_texts(made)] if made.texts.files() else []
    return (*texts, _service(made), _deployment(made), _budget(made))


def deployment(frozen: Manifest, replicas: int, idle_since: str | None, sink: Sink | None) -> dict[str, Any]:
    """Return a frozen Deployment with what is not of its revision: number, idleness, where records are written."""
    meta, spec = dict(frozen["metadata"]), {**frozen["spec"], "replicas": replicas}
    if idle_since is not None:
        meta["annotations"] = {**meta.get("annotations", {}), IDLE_ANNOTATION: idle_since}
    if sink is not None and sink.pvc is not None:
        spec["template"] = _with_claim(spec["template"], sink.pvc.claim_name, sink.pvc.path)
    return {**frozen, "metadata": meta, "spec": spec}


def stable_service(owner: Owner, revision: str) -> dict[str, Any]:
    """Return the Service for clients inside the cluster: it leads to the stable revision."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, owner.name, {owner.label: owner.name}),
        "spec": {
            "selector": labels_of(owner, revision),
            "ports": [_port("http", SERVICE_PORT, signals.LIVE_PORT)],
        },
    }


def _texts(made: Rendering) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(made.owner, made.name, labels_of(made.owner, made.revision)),
        "data": made.texts.files(),
    }


def _service(made: Rendering) -> dict[str, Any]:
    labels = labels_of(made.owner, made.revision)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(made.owner, made.name, labels),
        "spec": {
            "selector": labels,
            "ports": [
                _port("http", SERVICE_PORT, signals.LIVE_PORT),
                _port("shadow", signals.SHADOW_PORT, signals.SHADOW_PORT),
            ],
        },
    }


def _port(name: str, port: int, target: int) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": "TCP", "targetPort": target}


def _budget(made: Rendering) -> dict[str, Any]:
    labels = labels_of(made.owner, made.revision)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(made.owner, made.name, labels),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    }


def _deployment(made: Rendering) -> Manifest:
    labels = labels_of(made.owner, made.revision)
    queue = {KUEUE_QUEUE_LABEL: made.spec.serving.queue_name} if made.spec.serving.queue_name else {}
    meta = metadata(made.owner, made.name, labels | queue)
    meta["annotations"] = {DIGEST_ANNOTATION: made.source.digest, REF_ANNOTATION: made.source.ref}
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": meta,
        "spec": {
            "revisionHistoryLimit": 2,
            "minReadySeconds": AVAILABLE_SECONDS,
            # The server wants it longer than minReadySeconds.
            "progressDeadlineSeconds": max(AVAILABLE_SECONDS + 1, round(made.spec.strategy.progress_deadline.seconds)),
            "selector": {"matchLabels": labels},
            # Capacity never falls while pods are replaced.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": _pod(made, labels),
        },
    }


def _pod(made: Rendering, labels: dict[str, str]) -> dict[str, Any]:
    serving = made.spec.serving
    drain = serving.drain_timeout.seconds
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        # A Service named vllm would set VLLM_PORT to what vLLM can't read.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(drain) + GRACE_AFTER_DRAIN_SECONDS,
        "securityContext": pod_security(),
        "initContainers": [_verify(made)],
        "containers": [_server(made)],
        "volumes": _volumes(made),
        **scheduling(serving),
    }
    ours = {
        "metadata": {
            "labels": made.owner.labels() | labels,
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(signals.ADMIN_PORT),
                "prometheus.io/path": "/metrics",
                "kubectl.kubernetes.io/default-container": SERVER,
            },
        },
        "spec": pod,
    }
    if serving.template is None:
        return ours
    _keep_verify(serving.template)
    merged = merge_template(ours, serving.template, main=SERVER, at=TEMPLATE_FIELD)
    _verify_as_served(merged["spec"], cached=serving.cache is not None)
    return merged


def _verify_as_served(pod: dict[str, Any], *, cached: bool) -> None:
    """Hold the files against the digest in the image, and with the files, that the template gives the server.

    Raises TemplateConflict where the server would read others than the verified copies of a cache.
    """
    (server,) = (each for each in pod["containers"] if each["name"] == SERVER)
    (verify,) = (each for each in pod["initContainers"] if each["name"] == VERIFY)
    verify.update({name: server[name] for name in ("image", "imagePullPolicy", "env")})
    if not cached:
        verify["volumeMounts"] = server["volumeMounts"]
        return
    if {"name": "model", "mountPath": signals.MODEL_PATH, "readOnly": True} not in server["volumeMounts"]:
        raise TemplateConflict(
            f"{TEMPLATE_FIELD}.spec.containers[{SERVER}].volumeMounts: with serving.cache, {signals.MODEL_PATH} is the "
            "operator's"
        )
    ours = {mount["mountPath"] for mount in verify["volumeMounts"]}
    verify["volumeMounts"] += [mount for mount in server["volumeMounts"] if mount["mountPath"] not in ours]


def _keep_verify(template: Mapping[str, Any]) -> None:
    """What holds the files against their digest is not the user's to change. Raises TemplateConflict."""
    spec = template.get("spec")
    containers = spec.get("initContainers") if isinstance(spec, Mapping) else None
    for each in containers if isinstance(containers, list) else ():
        if isinstance(each, Mapping) and each.get("name") == VERIFY and set(each) - {"name", "resources"}:
            raise TemplateConflict(
                f"{TEMPLATE_FIELD}.spec.initContainers[{VERIFY}] belongs to the operator: only its resources can be set"
            )


def _verify(made: Rendering) -> dict[str, Any]:
    """Hold the files against the digest before vLLM reads them."""
    container = {
        "name": VERIFY,
        **_common(made),
        "command": ["python", "-m", "rlhf_scoring.verify"],
        "args": ["--artifact", signals.MODEL_PATH, "--digest", made.source.digest],
        "env": environment({}, made.spec.serving),
        "volumeMounts": [*scratch_mounts(), _model_mount(made)],
    }
    cache = made.spec.serving.cache
    if cache is not None:
        folder = "/".join(filter(None, (CACHE_PATH, cache.pvc.path.strip("/"))))
        container["args"] = ["--artifact", ARTIFACT_PATH, "--digest", made.source.digest, "--cache", folder]
        artifact = _model_mount(made) | {"name": "artifact", "mountPath": ARTIFACT_PATH}
        copies = {"name": "model", "mountPath": CACHE_PATH}
        container["volumeMounts"] = [*scratch_mounts(), artifact, copies]
    if made.spec.serving.resources is not None:
        # Devices are the server's: of them a pod gets the larger of both numbers, and this one needs none.
        listed = made.spec.serving.resources.dump()
        container["resources"] = {
            kind: {name: amount for name, amount in entries.items() if "/" not in name}
            for kind, entries in listed.items()
        }
    return container


def _server(made: Rendering) -> dict[str, Any]:
    serving = made.spec.serving
    drain = round(serving.drain_timeout.seconds)
    ours: dict[str, str] = {
        **OFFLINE_ENV,
        # A gateway that keeps a connection for longer than the server meets, once in a while, one that was just closed:
        # a user's 503. Envoy drops an idle one after an hour, vLLM after 5 s.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        # Of the engine's plug-ins none is for generation.
        "VLLM_PLUGINS": "",
        "RLHF_NAMESPACE": made.owner.namespace,
        "RLHF_ROLLOUT": made.owner.name,
        "RLHF_REVISION": made.revision,
        "RLHF_ARTIFACT_DIGEST": made.source.digest,
        "RLHF_DRAIN_SECONDS": str(drain),
    }
    args = [
        *("--model", _model_path(made)),
        *("--served-model-name", made.owner.name),
        *("--host", "0.0.0.0"),  # noqa: S104 - the pod's own address
        *("--port", str(signals.LIVE_PORT)),
        *("--shutdown-timeout", str(drain)),
    ]
    devices = gpus(serving.resources)
    if devices:
        args += ["--tensor-parallel-size", str(devices)]
    else:
        args += ["--dtype", "float32", "--enforce-eager"]
        ours |= CPU_ENV
    if made.texts.chat_template is not None:
        args += ["--chat-template", f"{signals.TEXTS_PATH}/{signals.CHAT_TEMPLATE_FILE}"]
    # The last of two equal flags counts.
    args += serving.args
    ready = {"path": "/readyz", "port": signals.ADMIN_PORT}
    starts = max(1, round(made.spec.strategy.progress_deadline.seconds / PROBE_SECONDS))
    container: dict[str, Any] = {
        "name": SERVER,
        **_common(made),
        "command": ["python", "-m", "rlhf_server.live"],
        "args": args,
        "env": environment(ours, serving),
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in (
                ("http", signals.LIVE_PORT),
                ("shadow", signals.SHADOW_PORT),
                ("admin", signals.ADMIN_PORT),
            )
        ],
        "volumeMounts": [*scratch_mounts(), _served_mount(made), *_live_mounts(made)],
        # Ready means that a request went through the whole server.
        "startupProbe": {
            "httpGet": ready,
            "periodSeconds": PROBE_SECONDS,
            "timeoutSeconds": 5,
            "failureThreshold": starts,
        },
        "readinessProbe": {"httpGet": ready, "periodSeconds": PROBE_SECONDS, "timeoutSeconds": 5},
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": signals.ADMIN_PORT},
            "periodSeconds": 15,
            "timeoutSeconds": 5,
            "failureThreshold": 4,
        },
        # SIGTERM makes vLLM refuse new requests: it comes only when nothing runs any more.
        "lifecycle": {"preStop": {"exec": {"command": ["python", "-m", "rlhf_server.live.drain"]}}},
    }
    if serving.resources is not None:
        container["resources"] = serving.resources.dump()
    return container


def _common(made: Rendering) -> dict[str, Any]:
    return {
        "image": made.image,
        "imagePullPolicy": made.pull_policy,
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _model_mount(made: Rendering) -> dict[str, Any]:
    mount = {"name": "model", "mountPath": signals.MODEL_PATH, "readOnly": True}
    return mount | ({"subPath": made.source.folder} if made.source.folder else {})


def _served_mount(made: Rendering) -> dict[str, Any]:
    """Return what the server reads from: the whole cache, for the folder is not there when the pod is mounted."""
    if made.spec.serving.cache is None:
        return _model_mount(made)
    return {"name": "model", "mountPath": signals.MODEL_PATH, "readOnly": True}


def _model_path(made: Rendering) -> str:
    """Return where the server reads the model: in the cache, under its digest."""
    cache = made.spec.serving.cache
    if cache is None:
        return signals.MODEL_PATH
    parts = (signals.MODEL_PATH, cache.pvc.path.strip("/"), made.source.digest.replace(":", "-"))
    return "/".join(filter(None, parts))


def _live_mounts(made: Rendering) -> list[dict[str, Any]]:
    # Folders, not subPaths: only so do changes reach a running pod.
    mounts: list[dict[str, Any]] = [
        {"name": "signals", "mountPath": signals.SIGNALS_PATH, "readOnly": True},
        {"name": "keys", "mountPath": signals.KEYS_PATH, "readOnly": True},
        {"name": "spool", "mountPath": signals.SPOOL_PATH},
    ]
    if made.texts.files():
        mounts.append({"name": "texts", "mountPath": signals.TEXTS_PATH, "readOnly": True})
    return mounts


def _volumes(made: Rendering) -> list[dict[str, Any]]:
    name = made.owner.name
    volumes: list[dict[str, Any]] = [
        *scratch_volumes(),
        {"name": "model", "persistentVolumeClaim": {"claimName": made.source.claim}},
        {"name": "signals", "configMap": {"name": signals_name(name)}},
        # Group-readable: the files belong to root, the process to fsGroup.
        {"name": "keys", "secret": {"secretName": keys_name(name), "defaultMode": 0o440}},
        {"name": "spool", "emptyDir": {}},
    ]
    if made.texts.files():
        volumes.append({"name": "texts", "configMap": {"name": made.name}})
    cache = made.spec.serving.cache
    if cache is not None:
        volumes.append({"name": "artifact", "persistentVolumeClaim": {"claimName": made.source.claim}})
        model = {"name": "model", "persistentVolumeClaim": {"claimName": cache.pvc.claim_name}}
        volumes = [model if each["name"] == "model" else each for each in volumes]
    return volumes


def _with_claim(template: Mapping[str, Any], claim: str, folder: str) -> dict[str, Any]:
    """Return a pod template with the claim that trajectories are written to."""
    pod = template["spec"]
    mount = {"name": "trajectories", "mountPath": signals.TRAJECTORIES_PATH}
    if folder.strip("/"):
        mount["subPath"] = folder.strip("/")
    # A claim is one volume in a pod: that of the model, when it is the same.
    volume = next((each["name"] for each in pod["volumes"] if _claim_of(each) == claim), "trajectories")
    volumes = list(pod["volumes"])
    if volume == "trajectories":
        volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": claim}})
    containers = [
        {**each, "volumeMounts": [*each["volumeMounts"], mount | {"name": volume}]} if each["name"] == SERVER else each
        for each in pod["containers"]
    ]
    return {**template, "spec": {**pod, "containers": containers, "volumes": volumes}}


def _claim_of(volume: Mapping[str, Any]) -> str | None:
    claim = volume.get("persistentVolumeClaim")
    return claim["claimName"] if claim is not None else None

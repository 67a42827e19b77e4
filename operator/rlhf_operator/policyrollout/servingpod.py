"""The pod of a revision: `verify` holds the files against their digest, `server` answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_operator.api import signals
from rlhf_operator.common.engine import CPU_ENV, OFFLINE_ENV, environment, gpus
from rlhf_operator.common.podsecurity import container_security, pod_security, scratch_mounts, scratch_volumes
from rlhf_operator.common.podtemplate import TemplateConflict, merge_template
from rlhf_operator.common.scheduling import scheduling

from .rendering import SERVER, VERIFY, Rendering, keys_name, signals_name

ARTIFACT_PATH, CACHE_PATH = "/rlhf/artifact", "/rlhf/cache"
"""Where a pod with a cache has the artifact, which only `verify` reads, and the verified copies."""
TEMPLATE_FIELD = "spec.serving.template"
PROBE_SECONDS = 5
KEEP_ALIVE_SECONDS = 3900
GRACE_AFTER_DRAIN_SECONDS = 30


def pod_template(made: Rendering, labels: dict[str, str]) -> dict[str, Any]:
    """Return the pod template of a revision. Raises TemplateConflict."""
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

"""The pods of a revision as a view: how many are ready, and what keeps the others. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_operator.api.exitcodes import VERIFY_MISMATCH, VERIFY_NOT_SERVABLE
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.names import REVISION_LABEL
from rlhf_operator.common.times import parse_time
from rlhf_operator.runs.parsing import WORDS, waiting_words

from .children import IDLE_ANNOTATION
from .rendering import SERVER, VERIFY
from .views import Pods, Trouble

CRASHES = 3
"""Restarts of our container in one pod that are taken for the model's doing."""
_BACK_OFF = "CrashLoopBackOff"


def pods_view(deployment: Manifest, pods: Sequence[Manifest], *, scaled: bool) -> Pods:
    """Return the pods of one revision. pods: those of the rollout, whichever revision they are of."""
    meta, spec, status = deployment["metadata"], deployment["spec"], deployment.get("status") or {}
    revision = (meta.get("labels") or {}).get(REVISION_LABEL, "")
    replicas = spec.get("replicas", 1)
    ours = [
        pod
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == revision
        and not pod["metadata"].get("deletionTimestamp")
    ]
    ready = status.get("availableReplicas", 0)
    seen = status.get("observedGeneration", 0) >= meta.get("generation", 0)
    trouble, words = _trouble(ours, status)
    if trouble is Trouble.NONE and (ready < replicas or not seen):
        trouble = Trouble.STARTING
    return Pods(
        revision=revision,
        uid=meta["uid"],
        replicas=replicas,
        ready=ready,
        settled=seen and status.get("updatedReplicas", 0) == replicas == status.get("replicas", 0),
        created_at=parse_time(meta.get("creationTimestamp")),
        idle_since=parse_time((meta.get("annotations") or {}).get(IDLE_ANNOTATION)),
        restarts=sum(_server(pod).get("restartCount", 0) for pod in ours),
        trouble=trouble,
        words=words,
        scaled_by_others=scaled,
    )


def _trouble(pods: Sequence[Manifest], status: Mapping[str, Any]) -> tuple[Trouble, str]:
    """Return the worst of what is wrong with any pod, and its words."""
    found = sorted(filter(None, map(_of_pod, pods)), key=lambda each: (_WORST.index(each[0]), each[1]))
    if found:
        return found[0]
    for condition in status.get("conditions") or ():
        # Quota, or an admission policy: there is no pod that could say it.
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Trouble.INFRASTRUCTURE, cut(condition.get("message", ""), WORDS)
    return Trouble.NONE, ""


_WORST = (Trouble.DIGEST_MISMATCH, Trouble.NOT_SERVABLE, Trouble.CRASHING, Trouble.INFRASTRUCTURE)
_REFUSED = {VERIFY_MISMATCH: Trouble.DIGEST_MISMATCH, VERIFY_NOT_SERVABLE: Trouble.NOT_SERVABLE}


def _of_pod(pod: Manifest) -> tuple[Trouble, str] | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    verified = next((_ended(each) for each in _init(status) if each.get("name") == VERIFY), {})
    if (refused := _REFUSED.get(verified.get("exitCode", 0))) is not None:
        return refused, cut(f"{name}: {verified.get('message', '')}".rstrip(": \n"), WORDS)
    server = _server(pod)
    waiting = (server.get("state") or {}).get("waiting") or {}
    ended = _ended(server)
    if server.get("restartCount", 0) >= CRASHES or (waiting.get("reason") == _BACK_OFF and ended):
        return Trouble.CRASHING, cut(f"{name}: {_how(server, ended)}", WORDS)
    if verified.get("exitCode"):
        # Files that can't be read are the storage's matter.
        return Trouble.INFRASTRUCTURE, cut(f"{name}: {verified.get('message', '')}".rstrip(": \n"), WORDS)
    if status.get("phase") == "Failed" and status.get("reason"):
        return Trouble.INFRASTRUCTURE, cut(f"{name}: {status['reason']}: {status.get('message', '')}", WORDS)
    words = waiting_words(pod)
    return (Trouble.INFRASTRUCTURE, words) if words is not None else None


def _how(server: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    reason, code = ended.get("reason", "Error"), ended.get("exitCode", "?")
    message = " ".join(ended.get("message", "").split())
    times = f"ended {server.get('restartCount', 0)} times"
    return f"{SERVER} {times}, last with {reason} (exit code {code}){': ' + message if message else ''}"


def _server(pod: Manifest) -> Mapping[str, Any]:
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((each for each in containers if each.get("name") == SERVER), {})


def _init(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from status.get("initContainerStatuses") or ()


def _ended(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how a container ended last; empty for one that never did."""
    for field in ("state", "lastState"):
        ended: Mapping[str, Any] | None = (container.get(field) or {}).get("terminated")
        if ended is not None:
            return ended
    return {}

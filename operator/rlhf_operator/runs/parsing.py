"""Kubernetes' objects as views: what of a Job, a pod, a claim or a Workload matters here. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from rlhf_operator.api.plan import PLAN_FILE, RunPlan
from rlhf_operator.api.result import TerminationMessage
from rlhf_operator.api.rewardmodel import RewardModelStatus
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.names import ATTEMPT_LABEL, GATE_LABEL, PLAN_LABEL, ROLE_LABEL
from rlhf_operator.common.times import parse_time

from .children import KUEUE_QUEUE_LABEL, MICRO_BATCH_ANNOTATION
from .views import TRAINER, ClaimView, FrozenPlan, JobView, PodView, RewardModelView, WorkloadView

WORDS = 300
"""Longest quotation of the scheduler or the kubelet."""

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


def job_view(job: Manifest, pods: Sequence[Manifest]) -> JobView:
    """Return a batch Job with its pods, oldest first."""
    meta, spec, status = job["metadata"], job.get("spec") or {}, job.get("status") or {}
    labels = meta.get("labels") or {}
    failed = _condition(status, "Failed")
    views = tuple(pod_view(pod) for pod in pods)
    return JobView(
        name=meta["name"],
        uid=meta["uid"],
        role=labels.get(ROLE_LABEL, ""),
        attempt=_integer(labels.get(ATTEMPT_LABEL)) or 0,
        created_at=parse_time(meta.get("creationTimestamp")) or datetime.fromtimestamp(0, UTC),
        started_at=parse_time(status.get("startTime")),
        suspended=bool(spec.get("suspend")),
        deleting=meta.get("deletionTimestamp") is not None,
        complete=_condition(status, "Complete") is not None,
        failed=failed is not None,
        ended_at=next(filter(None, (_since(status, kind) for kind in ("Complete", "Failed", "Suspended"))), None),
        failed_reason=(failed or {}).get("reason", ""),
        failed_message=(failed or {}).get("message", ""),
        pods=views,
        workers=spec.get("completions") or 1,
        micro_batch_size=_integer((meta.get("annotations") or {}).get(MICRO_BATCH_ANNOTATION)),
        queue_name=labels.get(KUEUE_QUEUE_LABEL),
        plan=labels.get(PLAN_LABEL, ""),
        judged_by=labels.get(GATE_LABEL, ""),
        verdict=_verdict(views),
    )


def pod_view(pod: Manifest) -> PodView:
    """Return a pod, judged by its container `trainer`."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    container: Mapping[str, Any] = next(
        (each for each in status.get("containerStatuses") or () if each.get("name") == TRAINER), {}
    )
    state = container.get("state") or {}
    ended = state.get("terminated") or {}
    disruption = _condition(status, "DisruptionTarget")
    return PodView(
        name=meta["name"],
        uid=meta["uid"],
        index=_integer((meta.get("annotations") or {}).get(INDEX_ANNOTATION)),
        phase=status.get("phase", "Pending"),
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        reason=status.get("reason", ""),
        message=cut(status.get("message", ""), WORDS),
        disruption=disruption.get("reason", "DisruptionTarget") if disruption is not None else None,
        waiting=_waiting(meta["name"], status),
        started=bool(state.get("running")) or bool(ended) or bool(container.get("started")),
        exit_code=ended.get("exitCode"),
        scheduled_at=_since(status, "PodScheduled"),
        ended_at=parse_time(ended.get("finishedAt")),
        exit_reason=ended.get("reason", ""),
        termination_message=ended.get("message", ""),
        busy=_busy(status),
        deleting_since=parse_time(meta.get("deletionTimestamp")),
    )


def _busy(status: Mapping[str, Any]) -> bool:
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return any((container.get("state") or {}).get("running") for container in statuses)


def claim_view(claim: Manifest) -> ClaimView:
    """Return a claim with the access modes it has, or asks for while it is not bound."""
    spec, status = claim.get("spec") or {}, claim.get("status") or {}
    return ClaimView(
        name=claim["metadata"]["name"],
        access_modes=tuple(status.get("accessModes") or spec.get("accessModes") or ()),
        phase=status.get("phase", "Pending"),
        deleting=claim["metadata"].get("deletionTimestamp") is not None,
    )


def reward_model_view(obj: Manifest) -> RewardModelView:
    """Return a RewardModel as its users see it. Raises ValidationError."""
    status = RewardModelStatus.model_validate(obj.get("status") or {})
    serving = (obj.get("spec") or {}).get("serving") or {}
    return RewardModelView(
        name=obj["metadata"]["name"],
        serves=serving.get("enabled", True) is not False,
        current=status.current_version,
        versions=tuple(status.versions),
        message=cut(status.message or "", WORDS),
    )


def workload_view(workload: Manifest) -> WorkloadView:
    """Return Kueue's Workload."""
    status = workload.get("status") or {}
    quota: Mapping[str, Any] = next(
        (each for each in status.get("conditions") or () if each.get("type") == "QuotaReserved"), {}
    )
    evicted = _condition(status, "Evicted")
    words = quota.get("message", "") if quota.get("status") != "True" else ""
    return WorkloadView(
        name=workload["metadata"]["name"],
        evicted=evicted.get("reason", "Evicted") if evicted is not None else None,
        message=cut(words or (evicted or {}).get("message", ""), WORDS),
    )


def frozen_plan_view(config_map: Manifest, plan_type: type[RunPlan]) -> FrozenPlan:
    """Return the plan that a ConfigMap holds. Its digest is that of the text, whatever this operator makes of it."""
    text = config_map["data"][PLAN_FILE]
    return FrozenPlan(config_map["metadata"]["name"], sha256_of(text.encode()), text, plan_type)


def pod_refusal(job: str, events: Sequence[Manifest]) -> str | None:
    """Return the newest words of the Job controller on a pod that it could not create."""
    failed = [event for event in events if event.get("reason") == "FailedCreate" and event.get("note")]
    newest = max(failed, key=_last_seen, default=None)
    if newest is None:
        return None
    # Each try has a pod name of its own; words that never repeat would make every look a write.
    return cut(re.sub(rf'"{re.escape(job)}-[^"]*"', f'"{job}-…"', newest["note"]), WORDS)


def _last_seen(event: Manifest) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return next(filter(None, times), None) or event["metadata"].get("creationTimestamp") or ""


def _verdict(pods: Sequence[PodView]) -> TerminationMessage | None:
    """Return what the newest pod of index 0 said; one that succeeded counts before one that failed."""
    verdicts: list[TerminationMessage] = []
    for pod in pods:
        if pod.index not in (0, None) or pod.exit_code is None:
            continue
        try:
            verdict = TerminationMessage.model_validate_json(pod.termination_message)
        except ValidationError:
            continue
        # Success takes both: the word, and the exit that comes after everything was written.
        if verdict.failure is not None or pod.exit_code == 0:
            verdicts.append(verdict)
    return next((verdict for verdict in verdicts if verdict.failure is None), verdicts[-1] if verdicts else None)


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Return the condition of this type when it is True."""
    found = (each for each in status.get("conditions") or () if each.get("type") == kind)
    return next((each for each in found if each.get("status") == "True"), None)


def _since(status: Mapping[str, Any], kind: str) -> datetime | None:
    """Return since when the condition of this type is True."""
    return parse_time((_condition(status, kind) or {}).get("lastTransitionTime"))


def waiting_words(pod: Manifest) -> str | None:
    """Return what keeps a pod from running, in the scheduler's or the kubelet's words."""
    return _waiting(pod["metadata"]["name"], pod.get("status") or {})


def _waiting(name: str, status: Mapping[str, Any]) -> str | None:
    scheduled: Mapping[str, Any] = next(
        (each for each in status.get("conditions") or () if each.get("type") == "PodScheduled"), {}
    )
    if scheduled.get("status") == "False" and scheduled.get("message"):
        return cut(f"{name}: {scheduled['message']}", WORDS)
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = waiting.get("reason", "")
            if reason and reason not in ("ContainerCreating", "PodInitializing"):
                return cut(f"{name}: {reason} {waiting.get('message', '')}".rstrip(), WORDS)
    return None


def _integer(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and text.isdigit() else None

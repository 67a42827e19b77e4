"""Reading for one run: Jobs and pods from the caches, live look-ups of what is not ours, progress, the dry run."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from rlhf_operator.api.plan import PLAN_FILE, PROGRESS_PORT, RunPlan
from rlhf_operator.api.result import Progress
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.names import Owner
from rlhf_operator.common.reader import Reader, ReadFailed, TemplateRejected
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    JOBS,
    PODS,
    PVCS,
    REWARDMODELS,
    SECRETS,
    SERVICES,
    WORKLOADS,
    Resource,
)

from . import children, progress, startup
from .decide import decide
from .ledger import SUCCEEDED, ledger_of
from .parsing import claim_view, frozen_plan_view, job_view, pod_refusal, reward_model_view, workload_view
from .references import Wanted, wanted
from .spec import RunSpec
from .storage import Stored, storage_claim
from .views import ClaimView, FrozenPlan, JobView, References, Refusal, RewardModelView, Run, WorkloadView

Clock = Callable[[], datetime]
RunT = TypeVar("RunT", bound=Run)


async def look(observed: RunT, spec: RunSpec, reader: Reader, clock: Clock) -> RunT:
    """Return the run with everything that has to be asked for. Raises ReadFailed when a dry run gets no answer."""
    observed = replace(observed, pod_refusal=await _pod_refusal(observed, reader, clock()))
    live = observed.live
    if live is not None:
        return replace(observed, progress=await _progress(observed, live, reader, clock()))
    if not about_to_start(observed, spec):
        return observed
    observed = await look_up_references(observed, spec, reader)
    return replace(observed, refusal=await _dry_run(observed, spec, reader, clock()))


async def look_up_references(observed: RunT, spec: RunSpec, reader: Reader) -> RunT:
    """Return the run with what its spec refers to."""
    return replace(observed, references=await _references(wanted(spec), observed.owner.namespace, reader))


def about_to_start(observed: Run, spec: RunSpec) -> bool:
    """Whether the next step may be a new attempt: only then is it worth asking the API server."""
    ledger = ledger_of(observed.status)
    if ledger.open is not None or (ledger.last is not None and ledger.last.class_ == SUCCEEDED):
        return False
    return not spec.suspend and spec.supported.passed


def jobs_of(reader: Reader, namespace: str, uid: str) -> list[JobView]:
    """Return the batch Jobs of an owner with their pods."""
    return [
        job_view(job, reader.owned(PODS, namespace, job["metadata"]["uid"]))
        for job in reader.owned(JOBS, namespace, uid)
    ]


def newest(jobs: Iterable[JobView], role: str) -> JobView | None:
    """Return the newest Job of a role."""
    return max((job for job in jobs if job.role == role), key=lambda job: (job.created_at, job.attempt), default=None)


def by_attempt(jobs: Iterable[JobView]) -> tuple[JobView, ...]:
    """Return the training Jobs, oldest attempt first."""
    return tuple(sorted((job for job in jobs if job.role == children.TRAIN), key=lambda job: job.attempt))


def plans_of(reader: Reader, namespace: str, uid: str, plan_type: type[RunPlan]) -> list[FrozenPlan]:
    """Return the plans that were frozen for an owner, oldest first."""
    maps = [each for each in reader.owned(CONFIGMAPS, namespace, uid) if PLAN_FILE in (each.get("data") or {})]
    return [frozen_plan_view(each, plan_type) for each in maps]


def workload_of(reader: Reader, namespace: str, attempts: Sequence[JobView]) -> WorkloadView | None:
    """Return Kueue's Workload of the newest attempt."""
    if not attempts or not reader.synced(WORKLOADS):
        return None
    found = reader.owned(WORKLOADS, namespace, attempts[-1].uid)
    return workload_view(found[-1]) if found else None


def own_claim(reader: Reader, owner: Owner, spec: Stored) -> ClaimView | None:
    """Return the storage claim that was made for the owner, if one was."""
    if spec.storage.claim_name is not None:
        return None
    found = reader.get(PVCS, owner.namespace, storage_claim(owner.name, spec))
    return claim_view(found) if found is not None else None


def service_uid(reader: Reader, owner: Owner) -> str | None:
    """Return the uid of the headless Service, if it is the owner's."""
    manifest = reader.get(SERVICES, owner.namespace, children.service_name(owner.name))
    if manifest is None:
        return None
    owners = manifest["metadata"].get("ownerReferences") or ()
    return manifest["metadata"]["uid"] if any(each.get("uid") == owner.uid for each in owners) else None


async def _progress(observed: Run, job: JobView, reader: Reader, now: datetime) -> Progress | None:
    pod = job.root_pod
    if pod is None or pod.ip is None or pod.ended or not startup.all_started(job):
        return None
    if not progress.due(observed.status, now, observed.defaults.progress_interval_seconds):
        return None
    body = await reader.progress(pod.ip, PROGRESS_PORT)
    if body is None:
        return None
    try:
        reading = Progress.model_validate_json(body)
    except ValidationError:
        return None
    # An address may belong to another pod by now.
    known = observed.plan.digest if observed.plan is not None else observed.status.plan_digest
    return reading if reading.plan_digest == known and reading.attempt == job.attempt else None


async def _pod_refusal(observed: Run, reader: Reader, now: datetime) -> str | None:
    """Return why the Job controller can't create a pod that is missing: a quota, a policy, a webhook."""
    job = observed.publish or observed.live
    if job is None or job.finished or job.deleting or job.suspended or len(job.pods) >= job.workers:
        return None
    if job.started_at is None or now < job.started_at + startup.PODS_AFTER:
        return None
    try:
        return pod_refusal(job.name, await reader.events_of(observed.owner.namespace, job.uid))
    except ReadFailed:
        # Only words are missing then.
        return None


async def _references(names: Wanted, namespace: str, reader: Reader) -> References:
    claims: dict[str, ClaimView] = {}
    config_maps: dict[str, Mapping[str, bytes]] = {}
    secrets: dict[str, frozenset[str]] = {}
    unread: dict[str, str] = {}
    unchecked: set[str] = set()

    async def look_up(resource: Resource, name: str) -> Manifest | None:
        try:
            return await reader.fetch(resource, namespace, name)
        except ReadFailed as error:
            # Rights to Secrets are not given lightly: without them the pod itself waits for its Secret.
            if error.forbidden and resource is SECRETS:
                unchecked.add(name)
            else:
                unread[f"{resource.kind} {name}"] = str(error)
            return None

    for name in names.claims:
        if (found := await look_up(PVCS, name)) is not None:
            claims[name] = claim_view(found)
    for name in _unique(names.config_maps):
        if (found := await look_up(CONFIGMAPS, name)) is not None:
            config_maps[name] = _content(found)
    for name in _unique(names.secrets):
        if (found := await look_up(SECRETS, name)) is not None:
            # Only which keys there are: values are dropped with the answer.
            secrets[name] = frozenset(found.get("data") or {})
    reward_models: dict[str, RewardModelView] = {}
    for name in names.reward_models:
        # One of our kinds: its cache wakes us when it changes.
        if (cached := reader.get(REWARDMODELS, namespace, name)) is None:
            continue
        try:
            reward_models[name] = reward_model_view(cached)
        except ValidationError as error:
            unread[f"RewardModel {name}"] = cut(str(error), 300)
    return References(claims, config_maps, secrets, reward_models, unread, frozenset(unchecked))


def _unique(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return sorted({name for name, _ in pairs})


def _content(config_map: Manifest) -> dict[str, bytes]:
    content = {key: str(text).encode() for key, text in (config_map.get("data") or {}).items()}
    for key, text in (config_map.get("binaryData") or {}).items():
        try:
            content[key] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue
    return content


async def _dry_run(observed: Run, spec: RunSpec, reader: Reader, now: datetime) -> Refusal | None:
    """Return why the API server does not take the Job that would be made, None when it does."""
    if spec.compute.template is None:
        return None
    jobs: list[Any] = [each for each in decide(observed, spec, now).create if each["kind"] == "Job"]
    for job in jobs:
        try:
            await reader.dry_run_create(job)
        except TemplateRejected as rejected:
            return Refusal(str(rejected), rejected.permanent)
    return None

"""All reading for one RLHFJob: caches, live look-ups of what is not ours, rank 0's progress, the dry run."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.plan import PLAN_FILE, PROGRESS_PORT
from rlhf_operator.api.result import Progress
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.conditions import find
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import Owner
from rlhf_operator.common.reader import Reader, ReadFailed, TemplateRejected
from rlhf_operator.common.resources import CONFIGMAPS, JOBS, PODS, PVCS, SECRETS, SERVICES, WORKLOADS, Resource

from . import children, progress, startup
from .ledger import SUCCEEDED, ledger_of
from .parsing import claim_view, frozen_plan_view, job_view, pod_refusal, workload_view
from .reconcile import decide, finished
from .references import Wanted, wanted
from .storage import storage_claim
from .supported import check_supported
from .views import ClaimView, FrozenPlan, JobView, Observed, References, Refusal

Clock = Callable[[], datetime]


async def observe(obj: Manifest, reader: Reader, defaults: OperatorDefaults, clock: Clock) -> Observed:
    """Return one job and everything around it. Raises ReadFailed when a dry run gets no answer."""
    observed = _cached(obj, reader, defaults)
    spec = observed.spec
    if spec is None or finished(observed):
        return observed
    observed = replace(observed, pod_refusal=await _pod_refusal(observed, reader, clock()))
    live = observed.live
    if live is not None:
        observed = replace(observed, progress=await _progress(observed, live, reader, clock()))
        if find(observed.status.conditions, "ReferencesResolved") is None:
            # The Job was made and the status that told of it was lost: what was looked up then is on no record.
            observed = replace(observed, references=await _references(wanted(spec), observed.owner.namespace, reader))
        return observed
    if not _about_to_start(observed, spec):
        return observed
    observed = replace(observed, references=await _references(wanted(spec), observed.owner.namespace, reader))
    return replace(observed, refusal=await _dry_run(observed, spec, reader, clock()))


def _cached(obj: Manifest, reader: Reader, defaults: OperatorDefaults) -> Observed:
    """Return what the caches hold: nothing here asks the API server."""
    meta = obj["metadata"]
    namespace, uid = meta.get("namespace", ""), meta["uid"]
    owner = Owner("RLHFJob", namespace, meta["name"], uid)
    spec, problem = _spec(obj)
    jobs = _jobs(reader, namespace, uid)
    attempts = sorted((job for job in jobs if job.role == children.TRAIN), key=lambda job: job.attempt)
    workloads = reader.owned(WORKLOADS, namespace, attempts[-1].uid) if attempts and _has_kueue(reader) else ()
    claim = None
    if spec is not None and spec.storage.claim_name is None:
        own = reader.get(PVCS, namespace, storage_claim(owner.name, spec))
        claim = claim_view(own) if own is not None else None
    service = reader.get(SERVICES, namespace, children.service_name(owner.name))
    return Observed(
        owner=owner,
        generation=meta.get("generation", 0),
        spec=spec,
        spec_problem=problem,
        status=_status(obj),
        raw_status=obj.get("status") or {},
        defaults=defaults,
        attempts=tuple(attempts),
        publish=_newest(jobs, children.PUBLISH),
        collect=_newest(jobs, children.COLLECT),
        plan=_plan(reader, namespace, uid, obj),
        claim=claim,
        service_uid=_uid_of_ours(service, uid),
        workload=workload_view(workloads[-1]) if workloads else None,
    )


def _spec(obj: Manifest) -> tuple[RLHFJobSpec | None, str]:
    try:
        return RLHFJobSpec.model_validate(obj.get("spec") or {}), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return None, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _status(obj: Manifest) -> RLHFJobStatus:
    raw = obj.get("status") or {}
    try:
        return RLHFJobStatus.model_validate(raw)
    except ValidationError as error:
        # Read what can be read: one field that somebody broke must not hide the attempts.
        broken = {str(each["loc"][0]) for each in error.errors(include_url=False, include_input=False)}
        return RLHFJobStatus.model_validate({name: value for name, value in raw.items() if name not in broken})


def _jobs(reader: Reader, namespace: str, uid: str) -> list[JobView]:
    return [
        job_view(job, reader.owned(PODS, namespace, job["metadata"]["uid"]))
        for job in reader.owned(JOBS, namespace, uid)
    ]


def _newest(jobs: Iterable[JobView], role: str) -> JobView | None:
    return max((job for job in jobs if job.role == role), key=lambda job: (job.created_at, job.attempt), default=None)


def _plan(reader: Reader, namespace: str, uid: str, obj: Manifest) -> FrozenPlan | None:
    maps = [each for each in reader.owned(CONFIGMAPS, namespace, uid) if PLAN_FILE in (each.get("data") or {})]
    plans = [frozen_plan_view(each) for each in maps]
    recorded = (obj.get("status") or {}).get("planDigest")
    return next((plan for plan in plans if plan.digest == recorded), plans[0] if plans and not recorded else None)


def _has_kueue(reader: Reader) -> bool:
    return reader.synced(WORKLOADS)


def _uid_of_ours(manifest: Manifest | None, owner_uid: str) -> str | None:
    if manifest is None:
        return None
    owners = manifest["metadata"].get("ownerReferences") or ()
    return manifest["metadata"]["uid"] if any(owner.get("uid") == owner_uid for owner in owners) else None


def _about_to_start(observed: Observed, spec: RLHFJobSpec) -> bool:
    """Whether the next step may be a new attempt: only then is it worth asking the API server."""
    ledger = ledger_of(observed.status)
    if ledger.open is not None or (ledger.last is not None and ledger.last.class_ == SUCCEEDED):
        return False
    return not spec.suspend and check_supported(spec).passed


async def _progress(observed: Observed, job: JobView, reader: Reader, now: datetime) -> Progress | None:
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


async def _pod_refusal(observed: Observed, reader: Reader, now: datetime) -> str | None:
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
    return References(claims, config_maps, secrets, unread, frozenset(unchecked))


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


async def _dry_run(observed: Observed, spec: RLHFJobSpec, reader: Reader, now: datetime) -> Refusal | None:
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

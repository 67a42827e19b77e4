"""All reading for one RewardModel: its run, the pods of its versions, and who uses them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from rlhf_operator.api.rewardmodel import RewardModelSpec, RewardModelStatus
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_operator.common.hashes import short
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import GATE_LABEL, PLAN_LABEL, VERSION_LABEL, Owner
from rlhf_operator.common.objects import spec_of, status_of
from rlhf_operator.common.reader import Reader, ReadFailed, TemplateRejected
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    ENDPOINTSLICES,
    PDBS,
    PODS,
    POLICYROLLOUTS,
    RLHFJOBS,
    SCALEDOBJECTS,
    SERVICES,
    Resource,
)
from rlhf_operator.runs import children as run_children
from rlhf_operator.runs import observe as runs
from rlhf_operator.runs.parsing import waiting_words
from rlhf_operator.runs.views import FrozenPlan, JobView, Run

from .children import RENDERED_FILE, RENDERED_KEY_LABEL, deployment, render, rendered_key
from .consumers import consumers
from .gate import gate_name, limits_of
from .plan import still_wanted
from .run import run_spec
from .versions import choose, judged
from .views import Child, DeploymentView, Lead, Observed, Rendered, ServiceView, fresh

KIND = "RewardModel"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


async def observe(obj: Manifest, reader: Reader, defaults: OperatorDefaults, clock: runs.Clock) -> Observed:
    """Return one RewardModel and everything around it. Raises ReadFailed when a dry run gets no answer."""
    observed = _cached(obj, reader, defaults)
    spec = observed.spec
    if spec is None:
        return observed
    observed = replace(observed, offered=await _offer(observed, spec, reader))
    if observed.former_jobs or _at_rest(observed, spec):
        return observed
    return replace(observed, run=await runs.look(observed.run, run_spec(observed.owner, spec), reader, clock))


async def _offer(observed: Observed, spec: RewardModelSpec, reader: Reader) -> dict[str, str]:
    """Return what the API server says of pods that are not on record and hold a template of the user's."""
    if spec.serving.template is None:
        return {}
    used = {use.version for use in observed.consumers if use.by_url}
    current = choose(observed.status.versions, spec.pinned_version).version
    if current is not None and spec.serving.enabled:
        used.add(current.digest)
    said: dict[str, str] = {}
    for version in observed.status.versions:
        key = rendered_key(version, spec.serving)
        if version.digest not in used or key in observed.rendered:
            continue
        try:
            rendered = render(observed.owner, version, spec, observed.defaults)
            await reader.dry_run_create(deployment(rendered, spec.serving.replicas))
            said[key] = ""
        except TemplateRejected as rejected:
            said[key] = str(rejected)
        except (ReadFailed, ValueError):
            # No answer is asked for again; what can't even be rendered is told by the one who renders.
            continue
    return said


def _at_rest(observed: Observed, spec: RewardModelSpec) -> bool:
    """Whether nothing is to be run: then nothing is looked up."""
    plan, run = observed.run.plan, observed.status.run
    if plan is not None and judged(observed.status.versions, plan.digest, limits_of(spec)) is not None:
        return True
    return run is not None and run.failed is not None and run.generation == observed.generation


def _cached(obj: Manifest, reader: Reader, defaults: OperatorDefaults) -> Observed:
    """Return what the caches hold: nothing here asks the API server."""
    meta = obj["metadata"]
    owner = Owner(KIND, meta.get("namespace", ""), meta["name"], meta["uid"])
    namespace, uid, generation = owner.namespace, owner.uid, meta.get("generation", 0)
    spec, problem = spec_of(obj, RewardModelSpec)
    status = status_of(obj, RewardModelStatus)
    plans = runs.plans_of(reader, namespace, uid, RewardPlan)
    again = _begins_again(status, generation)
    plan = _wanted(owner, spec, status, plans) if spec is not None and not again else None
    jobs = runs.jobs_of(reader, namespace, uid)
    ours = [job for job in jobs if spec is not None and _belongs(job, plan, spec, status, generation)]
    attempts = runs.by_attempt(ours)
    owned = {
        resource: reader.owned(resource, namespace, uid)
        for resource in (CONFIGMAPS, SERVICES, DEPLOYMENTS, PDBS, SCALEDOBJECTS)
        if resource is not SCALEDOBJECTS or reader.synced(SCALEDOBJECTS)
    }
    children = tuple(_children(owned, owner.name))
    pods = reader.mentioning(PODS, namespace, KIND, owner.name)
    run = Run(
        owner=owner,
        generation=generation,
        status=fresh(status, plan.digest if plan is not None else None, generation),
        defaults=defaults,
        attempts=attempts,
        numbers_from=max([status.attempts_made or 0, *(job.attempt for job in jobs)]),
        publish=runs.newest(ours, run_children.PUBLISH),
        collect=runs.newest(ours, run_children.COLLECT),
        plan=plan,
        claim=runs.own_claim(reader, owner, spec) if spec is not None else None,
        service_uid=runs.service_uid(reader, owner),
        workload=runs.workload_of(reader, namespace, attempts),
    )
    return Observed(
        owner=owner,
        generation=generation,
        spec=spec,
        spec_problem=problem,
        status=status,
        raw_status=obj.get("status") or {},
        defaults=defaults,
        run=run,
        former_jobs=tuple(job for job in jobs if spec is not None and job not in ours),
        former_plans=tuple(each for each in children if again and each.plan == short(again)),
        deployments={view.tag: view for view in (_deployment(each, pods) for each in owned[DEPLOYMENTS])},
        stable=_stable(owned[SERVICES], owner.name),
        leads=frozenset(_leads(reader.mentioning(ENDPOINTSLICES, namespace, KIND, owner.name))),
        rendered={view.key: view for view in _rendered(owned[CONFIGMAPS])},
        children=children,
        keda=reader.synced(SCALEDOBJECTS),
        consumers=consumers(
            reader.mentioning(RLHFJOBS, namespace, KIND, owner.name),
            reader.mentioning(POLICYROLLOUTS, namespace, KIND, owner.name),
            owner.name,
        ),
    )


def _wanted(
    owner: Owner, spec: RewardModelSpec, status: RewardModelStatus, plans: Iterable[FrozenPlan]
) -> FrozenPlan | None:
    """Return the frozen plan that the spec asks for: the recorded one first, then the newest."""
    recorded = status.run.plan_digest if status.run is not None else None
    for plan in sorted(reversed(list(plans)), key=lambda plan: plan.digest != recorded):
        if still_wanted(owner, spec, plan):
            return plan
    return None


def _begins_again(status: RewardModelStatus, generation: int) -> str | None:
    """Return the plan of a run that was given up and is begun again, from what its references hold now."""
    run = status.run
    if run is None or run.failed is None or run.generation == generation or run.plan_digest is None:
        return None
    kept = run.failed == Reason.PUBLISH_FAILED or any(each.plan_digest == run.plan_digest for each in status.versions)
    return None if kept else run.plan_digest


def _belongs(
    job: JobView, plan: FrozenPlan | None, spec: RewardModelSpec, status: RewardModelStatus, generation: int
) -> bool:
    """Whether a Job is of the wanted plan and, if it judges, of the limits in force."""
    if plan is None or job.plan != short(plan.digest):
        return False
    if job.role != run_children.PUBLISH:
        return True
    run = status.run
    # Publishing failed, and the spec has changed since: it is tried again.
    again = job.failed and run is not None and run.failed is not None and run.generation != generation
    return job.judged_by == gate_name(spec) and not again


def _deployment(manifest: Manifest, pods: Iterable[Manifest]) -> DeploymentView:
    meta, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    labels = meta.get("labels") or {}
    version = labels.get(VERSION_LABEL, "")
    replicas = spec.get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= meta.get("generation", 0)
    updated = status.get("updatedReplicas", 0)
    progressing: Mapping[str, Any] = next(
        (each for each in status.get("conditions") or () if each.get("type") == "Progressing"), {}
    )
    ours = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(VERSION_LABEL) == version]
    words = sorted(filter(None, (waiting_words(pod) for pod in ours)))
    return DeploymentView(
        name=meta["name"],
        tag=version,
        replicas=replicas,
        available=status.get("availableReplicas", 0),
        settled=seen and updated == replicas and status.get("replicas", 0) == updated,
        late=seen and progressing.get("reason") == "ProgressDeadlineExceeded",
        waiting=words[0] if words else "",
    )


def _stable(services: Iterable[Manifest], name: str) -> ServiceView | None:
    for service in services:
        if service["metadata"]["name"] == name:
            selector = service["spec"].get("selector") or {}
            return ServiceView(name, service["metadata"]["uid"], selector.get(VERSION_LABEL, ""))
    return None


def _leads(slices: Iterable[Manifest]) -> Iterator[Lead]:
    for each in slices:
        labels = each["metadata"].get("labels") or {}
        # No word about readiness counts as ready, as it does for proxies.
        if any((end.get("conditions") or {}).get("ready", True) for end in each.get("endpoints") or ()):
            yield Lead(labels.get(SERVICE_NAME_LABEL, ""), labels.get(VERSION_LABEL, ""))


def _rendered(config_maps: Iterable[Manifest]) -> Iterator[Rendered]:
    for each in config_maps:
        text = (each.get("data") or {}).get(RENDERED_FILE)
        key = (each["metadata"].get("labels") or {}).get(RENDERED_KEY_LABEL)
        if text is not None and key is not None:
            yield Rendered(each["metadata"]["name"], key, json.loads(text))


def _children(owned: Mapping[Resource, Iterable[Manifest]], stable: str) -> Iterator[Child]:
    for resource, manifests in owned.items():
        for each in manifests:
            meta = each["metadata"]
            labels = meta.get("labels") or {}
            if resource is SERVICES and meta["name"] == stable:
                continue
            child = Child(
                resource,
                meta["name"],
                meta["uid"],
                tag=labels.get(VERSION_LABEL, ""),
                plan=labels.get(PLAN_LABEL, ""),
                judged_by=labels.get(GATE_LABEL, ""),
            )
            if (child.tag or child.plan or child.judged_by) and meta.get("deletionTimestamp") is None:
                yield child

"""All reading for one PolicyRollout: its artifact, revisions, pods, route, gateway, and the round that is due."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

from pydantic import ValidationError

from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus, TextSource
from rlhf_operator.common.commands import ANNOTATION
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.measurements import Round
from rlhf_operator.common.mentions import EVERY
from rlhf_operator.common.names import REVISION_LABEL, Owner
from rlhf_operator.common.objects import spec_of, status_of
from rlhf_operator.common.podtemplate import TemplateConflict
from rlhf_operator.common.reader import Reader, ReadFailed, TemplateRejected
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    GATEWAYCLASSES,
    GATEWAYS,
    HTTPROUTES,
    PDBS,
    PODS,
    REWARDMODELS,
    RLHFJOBS,
    SCALEDOBJECTS,
    SECRETS,
    SERVICES,
    Resource,
)
from rlhf_operator.runs.parsing import reward_model_view
from rlhf_operator.runs.views import RewardModelView

from . import rounds
from .children import deployment, render
from .commands import parse
from .credentials import target_of
from .gateway import mirror_support
from .judging import (
    JudgePods,
    judge_deployment,
    judge_key,
    judge_name,
    keys_secret,
    read_judge,
    render_judge,
)
from .live import judged
from .look import Look
from .metrics import SET_BYTES, InForce, in_force
from .pods import pods_view
from .rendering import Rendering, Texts, image_of, keys_name
from .revisions import inputs_key, name_of, on_record, read, record, taken_over
from .route import route_view
from .source import resolve
from .views import Observed, Revision, Source, Support, Wanted

KIND = "PolicyRollout"
TEXT_BYTES = 256 * 1024
"""Longest system prompt or chat template; its content is kept with every revision."""

OWNED = (CONFIGMAPS, CONTROLLERREVISIONS, DEPLOYMENTS, HTTPROUTES, PDBS, SCALEDOBJECTS, SERVICES)
Clock = Callable[[], datetime]


async def observe(obj: Manifest, reader: Reader, defaults: OperatorDefaults, clock: Clock) -> Look:
    """Return one PolicyRollout and everything around it. Raises ReadFailed where a look without an answer misleads."""
    meta = obj["metadata"]
    owner = Owner(KIND, meta.get("namespace", ""), meta["name"], meta["uid"])
    spec, problem = spec_of(obj, PolicyRolloutSpec)
    owned = {resource: list(_of_us(reader, resource, owner)) for resource in OWNED}
    observed = Observed(
        owner=owner,
        generation=meta.get("generation", 0),
        spec=spec,
        spec_problem=problem,
        status=status_of(obj, PolicyRolloutStatus),
        raw_status=obj.get("status") or {},
        defaults=defaults,
        gateway_api=reader.synced(HTTPROUTES),
        keda=reader.synced(SCALEDOBJECTS),
    )
    if spec is None:
        return Look(observed=observed)
    scaled = frozenset(_revision(each) for each in owned[SCALEDOBJECTS])
    pods = reader.mentioning(PODS, owner.namespace, KIND, owner.name)
    views = [pods_view(each, pods, scaled=_revision(each) in scaled) for each in owned[DEPLOYMENTS] if _revision(each)]
    route = next((each for each in owned[HTTPROUTES] if each["metadata"]["name"] == owner.name), None)
    observed = replace(
        observed,
        revisions=_revisions(owned[CONTROLLERREVISIONS], owner),
        pods={each.revision: each for each in views},
        route=route_view(route, owner) if route is not None else None,
        command=parse((meta.get("annotations") or {}).get(ANNOTATION), verified=defaults.commands_verified),
        children=tuple(_children(owned)),
    )
    observed = replace(observed, wanted=await _wanted(observed, spec, reader))
    observed = replace(observed, mirror_support=await _mirror_support(observed, spec, reader))
    look = Look(
        observed=observed,
        metrics=await _metrics(observed, spec, reader),
        models=_models(observed, spec, reader),
        judge=_judge_on_record(owned[CONFIGMAPS], owner),
        keys=await _keys(observed, reader, adopting=any(not _is_owned(each) for each in chain(*owned.values()))),
        orphans=tuple(taken_over(each, owner) for each in owned[CONTROLLERREVISIONS] if not _is_owned(each)),
        scaled=scaled,
    )
    look = replace(look, judge_refused=await _judge_refused(look, spec, reader))
    return await _measure(look, spec, reader, clock)


def _of_us(reader: Reader, resource: Resource, owner: Owner) -> Iterator[Manifest]:
    """Yield what is ours by owner, and what an orphaning deletion of our namesake has left."""
    for each in reader.mentioning(resource, owner.namespace, KIND, owner.name):
        controllers = [o["uid"] for o in each["metadata"].get("ownerReferences") or () if o.get("controller")]
        if not controllers or owner.uid in controllers:
            yield each


def _is_owned(manifest: Manifest) -> bool:
    return any(each.get("controller") for each in manifest["metadata"].get("ownerReferences") or ())


def _revision(manifest: Manifest) -> str:
    revision: str = (manifest["metadata"].get("labels") or {}).get(REVISION_LABEL, "")
    return revision


def _revisions(records: Iterable[Manifest], owner: Owner) -> dict[str, Revision]:
    found = (read(each, owner) for each in records if not each["metadata"].get("deletionTimestamp"))
    return {each.name: each for each in found if each is not None}


def _children(owned: Mapping[Resource, Iterable[Manifest]]) -> Iterator[tuple[str, str, str, str]]:
    for resource, manifests in owned.items():
        for each in manifests:
            if each["metadata"].get("deletionTimestamp") is None:
                yield resource.kind, each["metadata"]["name"], each["metadata"]["uid"], _revision(each)


# What is wanted.


class _NoText(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def _wanted(observed: Observed, spec: PolicyRolloutSpec, reader: Reader) -> Wanted:
    """Return the revision that the spec asks for now; nothing is created here."""
    owner = observed.owner
    recorded = [each.source for each in sorted(observed.revisions.values(), key=lambda each: each.number)]
    jobs = _jobs(spec, owner.namespace, reader)
    found = resolve(spec.model, jobs, [each for each in recorded if each is not None])
    if found.source is None:
        return Wanted(reason=found.reason, message=found.message)
    try:
        texts = await _texts(spec, owner.namespace, reader)
    except _NoText as error:
        return Wanted(reason=error.reason, message=str(error))
    return await _revision_of(observed, spec, found.source, texts, reader)


def _jobs(spec: PolicyRolloutSpec, namespace: str, reader: Reader) -> Sequence[Manifest]:
    if spec.model.rlhf_job_ref is not None:
        job = reader.get(RLHFJOBS, namespace, spec.model.rlhf_job_ref.name)
        return [job] if job is not None else []
    if spec.model.rlhf_job_selector is not None:
        return reader.mentioning(RLHFJOBS, namespace, EVERY, RLHFJOBS.kind)
    return []


async def _revision_of(
    observed: Observed, spec: PolicyRolloutSpec, source: Source, texts: Texts, reader: Reader
) -> Wanted:
    inputs = inputs_key(source, spec.serving, texts)
    known = on_record(observed.revisions.values(), inputs)
    if known is not None:
        return Wanted(revision=known.name, source=source)
    defaults, image = observed.defaults, image_of(spec, observed.defaults)
    revision = name_of(inputs, image)
    made = Rendering(observed.owner, revision, source, spec, texts, image, defaults.server_image_pull_policy)
    try:
        objects = render(made)
        if spec.serving.template is not None:
            pods = next(each for each in objects if each["kind"] == DEPLOYMENTS.kind)
            await reader.dry_run_create(deployment(pods, spec.serving.replicas, None, None))
    except (TemplateConflict, TemplateRejected, ValueError) as error:
        words = f"the pods of revision {revision} can't be made as the spec asks: {error}"
        return Wanted(reason=Reason.TEMPLATE_INVALID, message=words)
    number = max((each.number for each in observed.revisions.values()), default=0) + 1
    return Wanted(revision=revision, source=source, rendered=record(made, inputs, objects, number))


async def _texts(spec: PolicyRolloutSpec, namespace: str, reader: Reader) -> Texts:
    return Texts(
        system_prompt=await _text("systemPrompt", spec.serving.system_prompt, namespace, reader),
        chat_template=await _text("chatTemplate", spec.serving.chat_template, namespace, reader),
    )


async def _text(field: str, source: TextSource | None, namespace: str, reader: Reader) -> str | None:
    if source is None:
        return None
    name, key = source.config_map.name, source.config_map.key
    found = await reader.fetch(CONFIGMAPS, namespace, name)
    if found is None:
        raise _NoText(Reason.CONFIG_MAP_NOT_FOUND, f"serving.{field}: there is no ConfigMap {name}: create it")
    text = (found.get("data") or {}).get(key)
    if text is None:
        raise _NoText(Reason.KEY_NOT_FOUND, f"serving.{field}: ConfigMap {name} has no key {key} with a text")
    size = len(text.encode())
    if size > TEXT_BYTES:
        words = f"serving.{field}: {key} of ConfigMap {name} has {size} bytes; at most {TEXT_BYTES} are kept"
        raise _NoText(Reason.INVALID_SPEC, words)
    return str(text)


# What stands around it.


async def _mirror_support(observed: Observed, spec: PolicyRolloutSpec, reader: Reader) -> Support:
    """Return whether the gateways mirror a percentage; asked for only while a mirror is to be written."""
    setting = observed.defaults.gateway_mirror
    if setting != "auto":
        return mirror_support(setting, ())
    traffic = observed.route.traffic if observed.route is not None else None
    under_way = traffic is not None and (traffic.candidate or observed.wanted.revision not in (None, traffic.stable))
    if not under_way or not any(step.mirror for step in spec.strategy.steps):
        return Support.UNKNOWN
    classes: list[Manifest | None] = []
    for parent in spec.route.parent_refs:
        try:
            gateway = await reader.fetch(GATEWAYS, parent.namespace or observed.owner.namespace, parent.name)
            name = ((gateway or {}).get("spec") or {}).get("gatewayClassName")
            classes.append(await reader.fetch(GATEWAYCLASSES, None, name) if name else None)
        except ReadFailed:
            # Classes are cluster-scoped: an operator of one namespace may not read them.
            classes.append(None)
    return mirror_support(setting, tuple(classes))


async def _metrics(observed: Observed, spec: PolicyRolloutSpec, reader: Reader) -> InForce:
    """Return the metrics in force. Shared sets are read while a rollout is under way, or about to be."""
    if spec.analysis is None:
        return InForce()
    sets: dict[tuple[str, str], str | None] = {}
    for each in spec.analysis.metric_sets:
        source = each.config_map
        found = await reader.fetch(CONFIGMAPS, observed.owner.namespace, source.name)
        text = ((found or {}).get("data") or {}).get(source.key)
        sets[source.name, source.key] = text[: SET_BYTES + 1] if text is not None else None
    return in_force(spec, sets, observed.defaults.allowed_hosts)


def _models(observed: Observed, spec: PolicyRolloutSpec, reader: Reader) -> dict[str, RewardModelView]:
    names = {each.name for each in observed.status.scorers}
    for metric in spec.analysis.metrics if spec.analysis is not None else ():
        scorer = metric.preset.scorer if metric.preset is not None else None
        if scorer is not None and scorer.reward_model_ref is not None:
            names.add(scorer.reward_model_ref.name)
    views = {}
    for name in sorted(filter(None, names)):
        found = reader.get(REWARDMODELS, observed.owner.namespace, name)
        if found is not None:
            try:
                views[name] = reward_model_view(found)
            except ValidationError:
                continue
    return views


async def _keys(observed: Observed, reader: Reader, *, adopting: bool) -> Manifest | None:
    """Return the Secret to be created, or taken over.

    It is looked for only while pods are missing, for those that run have read it, and while orphans are taken over.
    """
    if (
        observed.pods
        and not adopting
        and all(0 < each.replicas <= each.ready or each.replicas == 0 for each in observed.pods.values())
    ):
        return None
    owner = observed.owner
    found = await reader.fetch(SECRETS, owner.namespace, keys_name(owner.name))
    if found is not None and _is_owned(found):
        return None
    return keys_secret(owner, lambda: secrets.token_urlsafe(32))


def _judge_on_record(config_maps: Iterable[Manifest], owner: Owner) -> JudgePods | None:
    for each in config_maps:
        if each["metadata"]["name"] == judge_name(owner.name):
            return read_judge(each, owner)
    return None


async def _judge_refused(look: Look, spec: PolicyRolloutSpec, reader: Reader) -> str | None:
    """Return what the API server says of judge pods with a template of the user's that are not on record."""
    if spec.judge.template is None:
        return ""
    if not judged(look.metrics) or (look.judge is not None and look.judge.key == judge_key(spec.judge)):
        return ""
    try:
        pods = render_judge(look.observed.owner, spec.judge, look.observed.defaults)
        await reader.dry_run_create(judge_deployment(pods, spec.judge.replicas))
    except (TemplateConflict, TemplateRejected) as error:
        return str(error)
    except ReadFailed:
        return None
    return ""


# Measuring.


async def _measure(look: Look, spec: PolicyRolloutSpec, reader: Reader, clock: Clock) -> Look:
    """Ask the round that is due."""
    observed = look.observed
    traffic = observed.route.traffic if observed.route is not None else None
    step = rounds.step_of(observed.owner, spec, observed.status, traffic)
    if step is None:
        return look
    ask = rounds.plan(step, look.metrics, observed.status.analysis, observed.defaults.prometheus_url, clock())
    if ask is None:
        return replace(look, step=step)
    target = await target_of(ask, observed.owner.namespace, reader)
    found = target if isinstance(target, Round) else await reader.measure(target, ask.queries)
    return replace(look, step=step, ask=ask, found=found)

"""Which versions have pods, which one the stable Service leads to, and what goes when. Pure.

Traffic is the last thing to move: a version's pods are ready, then the Service leads to them, then the former ones go.
Where nothing serves yet, the Service is there before the pods, so that names and addresses are known when they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rlhf_operator.api.rewardmodel import RewardModelSpec, RewardModelVersion, RewardServing
from rlhf_operator.common.conditions import FALSE, TRUE, Condition
from rlhf_operator.common.intents import Delete, Manifest
from rlhf_operator.common.podtemplate import TemplateConflict
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.resources import SERVICES
from rlhf_operator.common.times import for_people

from . import children
from .versions import Choice, usable
from .views import Child, DeploymentView, Observed, age, tag

POLL = timedelta(seconds=60)
"""Nothing of ours changes when KEDA is installed, or what refuses a template."""

AGAIN = timedelta(seconds=5)
"""A dry run that got no answer is asked for again."""

CONDITION = "Serving"


@dataclass(frozen=True, slots=True)
class Serving:
    """What is to be done about pods, and what status says of them."""

    condition: Condition
    served: str | None = None
    """Digest of the version that clients of the stable Service reach."""
    since: datetime | None = None
    url: str | None = None
    answering: frozenset[str] = frozenset()
    """Digests of the versions whose own Service leads to a ready pod."""
    in_use: frozenset[str] = frozenset()
    """Digests that must stay in status."""
    apply: tuple[Manifest, ...] = ()
    delete: tuple[Delete, ...] = ()
    wake_at: datetime | None = None

    @property
    def works(self) -> bool:
        """Whether the version in use answers, or need not."""
        return self.condition.status == TRUE or self.condition.reason == Reason.SERVING_DISABLED


@dataclass(slots=True)
class _Writes:
    apply: list[Manifest] = field(default_factory=list)
    delete: list[Delete] = field(default_factory=list)
    names: set[tuple[str, str]] = field(default_factory=set)
    """(kind, name) of what stays."""
    holds: bool = False
    """Whether a rendering waits for its dry run: until then nothing goes."""


def serve(
    observed: Observed, spec: RewardModelSpec, versions: Sequence[RewardModelVersion], choice: Choice, now: datetime
) -> Serving:
    """Return the pods of every version that is needed, and where the stable Service leads."""
    by_tag = {tag(each.digest): each for each in versions}
    target = choice.version if spec.serving.enabled else None
    stable = observed.stable
    former = next((each for each in versions if each.digest == observed.status.served_version), None)
    # Somebody may have deleted the Service.
    before = by_tag.get(stable.tag) if stable is not None else former
    leads_to = _leads_to(observed, target, before, former)
    served = _served(observed, leads_to, former)
    since = now if served is not None and served is not former else observed.status.served_since
    writes = _Writes()
    if leads_to is None and stable is not None and (before is not None or not spec.serving.enabled):
        writes.delete.append(_delete(observed, Child(SERVICES, stable.name, stable.uid)))
    problem = ""
    needed = _unique([*_present(leads_to, served, target), *_pinned(observed, spec, by_tag)])
    for version in needed:
        try:
            _version(observed, spec, version, writes)
        except (TemplateConflict, ValueError) as error:
            problem = problem or f"the pods of version {version.digest} can't be made as the spec asks: {error}"
    if leads_to is not None:
        # Traffic moves last.
        writes.apply.append(children.stable_service(observed.owner, leads_to.digest))
    # What status has lost, and the Service leads to all the same, goes on until there is something to lead it to.
    lost = stable.tag if stable is not None and leads_to is None and before is None and spec.serving.enabled else None
    spare = [
        child
        for child in observed.children
        if child.tag and child.tag != lost and (child.resource.kind, child.name) not in writes.names
    ]
    # Clients may still be connected to the pods that were served before.
    stays = observed.defaults.former_version_seconds
    retires = served is None or age(since, now) >= stays
    if retires and not problem and not writes.holds:
        writes.delete += [_delete(observed, child) for child in spare]
    wakes = [since + timedelta(seconds=stays)] if spare and not retires and since is not None else []
    if writes.holds:
        wakes.append(now + AGAIN)
    if problem or (needed and spec.serving.autoscaling is not None and not observed.keda):
        wakes.append(now + POLL)
    uses = frozenset(use.version for use in observed.consumers)
    return Serving(
        condition=_condition(observed, spec, choice, served, problem),
        served=served.digest if served is not None else None,
        since=since if served is not None else None,
        url=children.url(observed.owner) if served is not None else None,
        answering=frozenset(each.digest for each in needed if _answers(observed, each)),
        in_use=frozenset(each.digest for each in _present(leads_to, served, target, choice.version)) | uses,
        apply=tuple(writes.apply),
        delete=tuple(writes.delete),
        wake_at=min(wakes, default=None),
    )


def _leads_to(
    observed: Observed,
    target: RewardModelVersion | None,
    before: RewardModelVersion | None,
    former: RewardModelVersion | None,
) -> RewardModelVersion | None:
    """Return the version that the stable Service selects from now on."""
    if target is None:
        return None
    unused = observed.stable is None if before is None else before is not former and not _answers(observed, before)
    if unused:
        # Nobody loses anything: names and proxies get to know it while its pods start.
        return target
    if before is not None and not usable(before):
        # Judged again, by stricter limits, and failed: no answer is better than one of its.
        return target
    pods = observed.deployment(target.digest)
    return target if pods is not None and pods.ready else before


def _served(
    observed: Observed, leads_to: RewardModelVersion | None, former: RewardModelVersion | None
) -> RewardModelVersion | None:
    """Return the version that the Service's clients reach: until it leads to pods of the new one, the former."""
    if leads_to is None:
        return None
    if leads_to is former:
        return former
    pods = observed.deployment(leads_to.digest)
    if pods is not None and pods.ready and observed.reaches(observed.owner.name, leads_to.digest):
        return leads_to
    return former if former is not None and usable(former) else None


def _pinned(
    observed: Observed, spec: RewardModelSpec, by_tag: dict[str, RewardModelVersion]
) -> Iterable[RewardModelVersion]:
    """Yield the versions whose pods somebody asks who is not finished, or waits for."""
    for use in observed.consumers:
        version = by_tag.get(tag(use.version))
        if version is None or not use.by_url:
            continue
        # What runs on a version that has failed since keeps it; its files may be gone, its pods are rendered.
        if usable(version) or (not use.waits and children.rendered_key(version, spec.serving) in observed.rendered):
            yield version


def _version(observed: Observed, spec: RewardModelSpec, version: RewardModelVersion, writes: _Writes) -> None:
    """Add the children of one version. Raises TemplateConflict, ValueError."""
    owner, digest = observed.owner, version.digest
    name = children.version_name(owner.name, digest)
    rendered = observed.rendered.get(children.rendered_key(version, spec.serving))
    if rendered is None:
        rendered = children.render(owner, version, spec, observed.defaults)
        refusal = observed.offered.get(rendered.key, "" if spec.serving.template is None else None)
        if refusal is None:
            # A version that was just made is offered in the pass after this one, when it is on record.
            writes.holds = True
            return
        if refusal:
            raise TemplateConflict(refusal)
        # On record before anything is made of it.
        writes.apply.append(children.rendered_config_map(owner, version, rendered))
    scales = spec.serving.autoscaling is not None and _can_scale(observed)
    replicas = _replicas(spec.serving, observed.deployment(digest), scales=scales)
    made = [children.deployment(rendered, replicas), children.version_service(owner, digest)]
    if replicas > 1 or (scales and spec.serving.autoscaling is not None and spec.serving.autoscaling.max > 1):
        made.append(children.budget(owner, digest))
    if scales:
        made.append(children.scaled_object(owner, digest, spec.serving, observed.defaults.prometheus_url))
    writes.apply += made
    writes.names |= {(each["kind"], name) for each in made} | {("ConfigMap", rendered.name)}


def _can_scale(observed: Observed) -> bool:
    return observed.keda and bool(observed.defaults.prometheus_url)


def _replicas(serving: RewardServing, found: DeploymentView | None, *, scales: bool) -> int:
    """Return the number of pods. What the autoscaler has set stays: we would only fight it."""
    wanted = serving.autoscaling
    if wanted is None:
        return serving.replicas
    if not scales or found is None:
        return max(wanted.min, min(serving.replicas, wanted.max))
    return found.replicas


def _condition(
    observed: Observed, spec: RewardModelSpec, choice: Choice, served: RewardModelVersion | None, problem: str
) -> Condition:
    target = choice.version
    if problem:
        return Condition(CONDITION, TRUE if served is not None else FALSE, Reason.TEMPLATE_INVALID, problem)
    if not spec.serving.enabled:
        return Condition(CONDITION, FALSE, Reason.SERVING_DISABLED, "serving.enabled is false")
    if target is None:
        return Condition(CONDITION, FALSE, Reason.NO_VERSION, "no version has passed its gate yet")
    if spec.serving.replicas == 0 and spec.serving.autoscaling is None:
        return Condition(CONDITION, FALSE, Reason.SCALED_TO_ZERO, "serving.replicas is 0: nothing answers")
    pods = observed.deployment(target.digest)
    if served is None or served.digest != target.digest:
        return _on_the_way(observed, spec, target, served, pods)
    if pods is None or pods.available == 0 or not observed.reaches(observed.owner.name, target.digest):
        words = f"version {target.digest} has no pod that answers{_because(pods)}"
        return Condition(CONDITION, FALSE, Reason.NO_POD_ANSWERS, words)
    if pods.late:
        limit = for_people(spec.serving.progress_deadline.seconds)
        words = (
            f"new pods of version {target.digest} are not ready after {limit} (serving.progressDeadline)"
            f"{_because(pods)}; its former ones go on"
        )
        return Condition(CONDITION, TRUE, Reason.VERSION_NOT_READY, words)
    words = f"version {target.digest} answers at {children.url(observed.owner)}"
    if choice.reason:
        words += f"; {choice.message}"
    if spec.serving.autoscaling is not None and not _can_scale(observed):
        why = "KEDA is not installed" if not observed.keda else "the operator knows no Prometheus (prometheusURL)"
        words += f"; {why}: the number of pods stays at {pods.replicas}"
        return Condition(CONDITION, TRUE, Reason.AUTOSCALING_UNAVAILABLE, words)
    return Condition(CONDITION, TRUE, choice.reason or Reason.SERVING, words)


def _on_the_way(
    observed: Observed,
    spec: RewardModelSpec,
    target: RewardModelVersion,
    served: RewardModelVersion | None,
    pods: DeploymentView | None,
) -> Condition:
    """Say what a version that is to be served waits for, and what goes on meanwhile."""
    waiting = _because(pods)
    former = observed.deployment(served.digest) if served is not None else None
    answers = former is not None and former.available > 0
    goes_on = f"; {served.digest} goes on" if served is not None and answers else ""
    if pods is not None and pods.late:
        limit = for_people(spec.serving.progress_deadline.seconds)
        words = f"version {target.digest} is not ready after {limit} (serving.progressDeadline){waiting}{goes_on}"
        return Condition(CONDITION, TRUE if answers else FALSE, Reason.VERSION_NOT_READY, words)
    if pods is not None and pods.ready:
        words = f"version {target.digest} is ready, and Service {observed.owner.name} is about to lead to it{goes_on}"
    else:
        words = f"the pods of version {target.digest} start{waiting}{goes_on}"
    if served is None:
        return Condition(CONDITION, FALSE, Reason.STARTING, words)
    return Condition(CONDITION, TRUE if answers else FALSE, Reason.SWITCHING, words)


def _because(pods: DeploymentView | None) -> str:
    return f": {pods.waiting}" if pods is not None and pods.waiting else ""


def _answers(observed: Observed, version: RewardModelVersion) -> bool:
    pods = observed.deployment(version.digest)
    name = children.version_name(observed.owner.name, version.digest)
    return pods is not None and pods.available > 0 and observed.reaches(name, version.digest)


def _delete(observed: Observed, child: Child) -> Delete:
    return Delete(child.resource, observed.owner.namespace, child.name, child.uid, "Background")


def _present(*versions: RewardModelVersion | None) -> list[RewardModelVersion]:
    return [each for each in versions if each is not None]


def _unique(versions: Iterable[RewardModelVersion]) -> list[RewardModelVersion]:
    return list({each.digest: each for each in versions}.values())

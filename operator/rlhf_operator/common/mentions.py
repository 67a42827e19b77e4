"""Which objects of ours another object speaks of without being owned by them: they are woken when it changes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .names import REWARD_MODEL_LABEL, ROLLOUT_LABEL, VERSION_LABEL
from .resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    ENDPOINTSLICES,
    HTTPROUTES,
    PDBS,
    PODS,
    POLICYROLLOUTS,
    REWARDMODELS,
    RLHFJOBS,
    SCALEDOBJECTS,
    SERVICES,
    Resource,
)

Mention = tuple[str, str]
"""Kind and name, in the same namespace."""

ANY = "*"
"""Instead of a name: every object of the kind."""
EVERY = "every"
"""In place of the kind: by it all objects of a kind are listed, and nobody is woken."""

Mentions = Callable[[Mapping[str, Any]], Iterable[Mention]]


def scorers_of_job(job: Mapping[str, Any]) -> Iterable[Mention]:
    """Yield the RewardModels that an RLHFJob scores with."""
    for scorer in (job.get("spec") or {}).get("scorers") or ():
        name = (scorer.get("rewardModelRef") or {}).get("name")
        if name:
            yield REWARDMODELS.kind, name


def scorer_refs(rollout: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Yield the references to RewardModels in a PolicyRollout's analysis: name, and version where it is given."""
    for metric in ((rollout.get("spec") or {}).get("analysis") or {}).get("metrics") or ():
        for preset in (metric.get("preset") or {}).values():
            reference = (preset.get("scorer") or {}).get("rewardModelRef") if isinstance(preset, Mapping) else None
            if reference:
                yield reference


def of_rollout(rollout: Mapping[str, Any]) -> Iterable[Mention]:
    """Yield what a PolicyRollout waits for or uses: RewardModels of its analysis, the RLHFJob that it serves."""
    used = (rollout.get("status") or {}).get("scorers") or ()
    for reference in (*scorer_refs(rollout), *used):
        if reference.get("name"):
            yield REWARDMODELS.kind, reference["name"]
    model = (rollout.get("spec") or {}).get("model") or {}
    job = (model.get("rlhfJobRef") or {}).get("name")
    if job or "rlhfJobSelector" in model:
        yield RLHFJOBS.kind, job or ANY


def scorer_of_labels(obj: Mapping[str, Any]) -> Iterable[Mention]:
    """Yield the RewardModel that a pod or an EndpointSlice serves: others stand between them as owners."""
    labels = obj["metadata"].get("labels") or {}
    if VERSION_LABEL in labels and REWARD_MODEL_LABEL in labels:
        yield REWARDMODELS.kind, labels[REWARD_MODEL_LABEL]


def rollout_of_labels(obj: Mapping[str, Any]) -> Iterable[Mention]:
    """Yield the PolicyRollout that a child belongs to: also one that an orphaning deletion has left without owner."""
    name = (obj["metadata"].get("labels") or {}).get(ROLLOUT_LABEL)
    if name:
        yield POLICYROLLOUTS.kind, name


def _job(job: Mapping[str, Any]) -> Iterable[Mention]:
    yield from scorers_of_job(job)
    # Not by its kind: that would wake every job whenever one changes.
    yield EVERY, RLHFJOBS.kind


def _pod(pod: Mapping[str, Any]) -> Iterable[Mention]:
    yield from scorer_of_labels(pod)
    yield from rollout_of_labels(pod)


MENTIONS: Mapping[Resource, Mentions] = {
    RLHFJOBS: _job,
    POLICYROLLOUTS: of_rollout,
    PODS: _pod,
    ENDPOINTSLICES: scorer_of_labels,
    **dict.fromkeys(
        (CONFIGMAPS, CONTROLLERREVISIONS, DEPLOYMENTS, HTTPROUTES, PDBS, SCALEDOBJECTS, SERVICES), rollout_of_labels
    ),
}
"""By resource; of any other nothing is asked."""

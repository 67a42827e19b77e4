"""Who uses a RewardModel's versions: read from the RLHFJobs and PolicyRollouts of its namespace. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.mentions import scorer_refs

from .views import Consumer


def consumers(jobs: Iterable[Manifest], rollouts: Iterable[Manifest], name: str) -> tuple[Consumer, ...]:
    """Return the versions of RewardModel `name` in use, or waited for by digest.

    By RLHFJobs that are not finished, and by the live judges of PolicyRollouts, which go on as long as these exist.
    """
    found = {each for job in jobs for each in _of_job(job, name)}
    found |= {each for rollout in rollouts for each in _of_rollout(rollout, name)}
    return tuple(sorted(found, key=lambda each: (each.kind, each.name, each.version)))


def _of_job(job: Manifest, name: str) -> Iterator[Consumer]:
    status: Mapping[str, Any] = job.get("status") or {}
    over = ("Complete", "Failed")
    if any(c.get("type") in over and c.get("status") == "True" for c in status.get("conditions") or ()):
        return
    frozen = status.get("rewardModels") or ()
    for use in frozen:
        if use.get("name") == name and use.get("version"):
            yield Consumer("RLHFJob", job["metadata"]["name"], use["version"], by_url="url" in use)
    if frozen:
        return
    for scorer in (job.get("spec") or {}).get("scorers") or ():
        wanted = scorer.get("rewardModelRef") or {}
        if wanted.get("name") == name and wanted.get("version"):
            yield Consumer("RLHFJob", job["metadata"]["name"], wanted["version"], waits=True)


def _of_rollout(rollout: Manifest, name: str) -> Iterator[Consumer]:
    for used in (rollout.get("status") or {}).get("scorers") or ():
        if used.get("name") == name and used.get("version"):
            yield Consumer("PolicyRollout", rollout["metadata"]["name"], used["version"])
    for wanted in scorer_refs(rollout):
        if wanted.get("name") == name and wanted.get("version"):
            yield Consumer("PolicyRollout", rollout["metadata"]["name"], wanted["version"], waits=True)

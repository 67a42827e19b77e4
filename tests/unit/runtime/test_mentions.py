"""Objects that speak of others: how they are found, and that each wakes when the other changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_operator.common.mentions import EVERY, scorer_of_labels, scorers_of_job
from rlhf_operator.common.resources import PODS, POLICYROLLOUTS, REWARDMODELS, RLHFJOBS, Resource
from rlhf_operator.kube.store import Store
from rlhf_operator.runtime.manager import Key, Manager


def job(name: str, *scorers: str, version: int = 1) -> dict[str, Any]:
    meta = {"namespace": "team", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    named = [{"name": each, "rewardModelRef": {"name": each}} for each in scorers]
    return {"metadata": meta, "spec": {"scorers": [*named, {"name": "rule", "grader": {"finalAnswer": {}}}]}}


def test_a_store_knows_who_speaks_of_an_object_and_forgets_it_with_the_object() -> None:
    store = Store(RLHFJOBS)
    store.upsert(job("b", "helpful", "safe"))
    store.upsert(job("a", "helpful"))
    helpful = (REWARDMODELS.kind, "helpful")
    assert store.mentioning("team", helpful) == (("team", "a"), ("team", "b"))
    assert store.mentioning("other", helpful) == ()
    store.upsert(job("b", "safe", version=2))
    assert store.mentioning("team", helpful) == (("team", "a"),)
    store.remove(("team", "a"), "uid-a")
    assert store.mentioning("team", helpful) == ()
    assert store.mentioning("team", (REWARDMODELS.kind, "safe")) == (("team", "b"),)


def test_what_a_job_and_a_scorers_pod_speak_of() -> None:
    assert list(scorers_of_job(job("a", "helpful"))) == [("RewardModel", "helpful")]
    assert list(scorers_of_job({"metadata": {}, "spec": {}})) == []
    labels = {"rlhf.dev/reward-model": "helpful", "rlhf.dev/version": "0123456789"}
    assert list(scorer_of_labels({"metadata": {"labels": labels}})) == [("RewardModel", "helpful")]
    assert list(scorer_of_labels({"metadata": {"labels": {"rlhf.dev/reward-model": "helpful"}}})) == []
    assert Store(PODS).mentioning("team", ("RewardModel", "helpful")) == ()


def rollout(name: str, **model: Any) -> dict[str, Any]:
    meta = {"namespace": "team", "name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
    return {"metadata": meta, "spec": {"model": model}}


class Woken:
    """A queue that notes who is woken."""

    def __init__(self) -> None:
        self.keys: set[tuple[str, str]] = set()

    def add(self, key: Key) -> None:
        self.keys.add((key.kind, key.name))

    def add_after(self, key: Key, after: float) -> None:
        self.add(key)


@pytest.mark.parametrize("kinds", [(RLHFJOBS, POLICYROLLOUTS), (POLICYROLLOUTS,)], ids=["both here", "jobs elsewhere"])
def test_a_jobs_change_wakes_the_rollouts_that_may_serve_it_and_no_other_job(kinds: tuple[Resource, ...]) -> None:
    stores = {resource: Store(resource) for resource in (RLHFJOBS, POLICYROLLOUTS)}
    for name in ("one", "two"):
        stores[RLHFJOBS].upsert(job(name))
    stores[POLICYROLLOUTS].upsert(rollout("any", rlhfJobSelector={"matchLabels": {"line": "a"}}))
    stores[POLICYROLLOUTS].upsert(rollout("by-name", rlhfJobRef={"name": "one"}))
    stores[POLICYROLLOUTS].upsert(rollout("by-place", artifact={}))
    woken = Woken()
    controllers: Any = [SimpleNamespace(resource=resource) for resource in kinds]
    queue: Any = woken
    manager = Manager(controllers, queue, SimpleNamespace())  # type: ignore[arg-type]
    caches: Any = SimpleNamespace(stores=stores)
    nobody: Any = object()
    manager.connect(caches, nobody, nobody)
    manager.started.update(resource.kind for resource in kinds)
    entry = stores[RLHFJOBS].entry(("team", "one"))
    assert entry is not None
    manager.changed(RLHFJOBS, ("team", "one"), entry)
    own = {("RLHFJob", "one")} if RLHFJOBS in kinds else set()
    assert woken.keys == own | {("PolicyRollout", "any"), ("PolicyRollout", "by-name")}
    assert stores[RLHFJOBS].mentioning("team", (EVERY, RLHFJOBS.kind)) == (("team", "one"), ("team", "two"))

"""What the API server refuses, and in which words. The cases are in invalid.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from apicluster import Cluster, Manifest, merged, refusals

CASES: dict[str, list[dict[str, Any]]] = yaml.safe_load((Path(__file__).parent / "invalid.yaml").read_text("utf-8"))


def test_there_are_enough_cases() -> None:
    names = [case["case"] for table in CASES.values() for case in table]
    assert len(names) >= 50
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["ppo", "dpo", "trained", "graders", "rollout"])
def test_the_manifests_that_cases_start_from_are_valid(cluster: Cluster, bases: dict[str, Manifest], name: str) -> None:
    cluster.create(bases[name], dry_run=True)


@pytest.mark.parametrize("case", CASES["create"], ids=lambda case: case["case"])
def test_an_invalid_manifest_is_refused_in_words_that_help(
    cluster: Cluster, bases: dict[str, Manifest], case: dict[str, Any]
) -> None:
    with pytest.raises(ApiException) as caught:
        cluster.create(merged(bases[case["base"]], case["patch"]), dry_run=True)
    assert refusals(caught.value) == [tuple(refusal) for refusal in case["refused"]]


@pytest.fixture(scope="module")
def job(cluster: Cluster, bases: dict[str, Manifest]) -> Iterator[Manifest]:
    created = cluster.create(merged(bases["ppo"], {"metadata": {"name": "immutable"}}))
    yield created
    cluster.delete(created)


@pytest.mark.parametrize("case", CASES["update"], ids=lambda case: case["case"])
def test_a_change_of_what_was_trained_is_refused(cluster: Cluster, job: Manifest, case: dict[str, Any]) -> None:
    with pytest.raises(ApiException) as caught:
        cluster.patch(job, case["patch"], dry_run=True)
    assert refusals(caught.value) == [tuple(refusal) for refusal in case["refused"]]


@pytest.mark.parametrize(
    "spec",
    [
        {"suspend": True},
        {"maxRestarts": 0},
        {"budget": {"maxGPUHours": 3}},
        {"ttlSecondsAfterFinished": 60},
        {"guards": [{"name": "kl", "kl": {"max": 10}, "action": "Warn"}]},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_what_may_change_while_a_job_runs_can_be_changed(cluster: Cluster, job: Manifest, spec: Manifest) -> None:
    changed = cluster.patch(job, {"spec": spec}, dry_run=True)
    assert changed["metadata"]["generation"] == job["metadata"]["generation"] + 1


def test_a_data_set_with_a_list_of_prompt_columns_can_be_applied_again(
    cluster: Cluster, bases: dict[str, Manifest]
) -> None:
    columns = {"spec": {"dataset": {"columns": {"prompt": ["instruction", "input"]}}}}
    job = cluster.create(merged(bases["ppo"], {"metadata": {"name": "columns"}} | columns))
    again = cluster.patch(job, columns)
    assert again["metadata"]["generation"] == 1
    with pytest.raises(ApiException) as caught:
        cluster.patch(job, {"spec": {"dataset": {"columns": {"prompt": ["instruction", "other"]}}}})
    assert [field for field, _ in refusals(caught.value)] == ["spec.dataset"]
    cluster.delete(job)

"""The largest specs that the bounds allow: the rules stay within the API server's cost limits at run time too."""

from __future__ import annotations

from typing import Any

from apicluster import Cluster, Manifest, merged

NAMES = [f"{'a-name-of-full-length-for-a-list-entry':a<38}{n:02}" for n in range(20)]
DATASET = {
    "pvc": {"claimName": "c" * 253, "path": "/".join(["p" * 31] * 16)},
    "format": "Prompts",
    "columns": {"prompt": ["c" * 253] * 16, "answer": "a" * 253},
}


def largest_job(base: Manifest) -> Manifest:
    scorers: list[dict[str, Any]] = [
        {
            "name": name,
            "grader": {"jsonSchema": {"schema": {"properties": {f"p{n}": {"type": "string"} for n in range(200)}}}},
        }
        for name in NAMES[:16]
    ]
    spec = {
        "dataset": DATASET,
        "warmStart": {"dataset": DATASET | {"format": "Demonstrations"}, "training": {"epochs": 1, "batchSize": 64}},
        "scorers": scorers,
        "rewards": [{"scorer": name, "clip": {"min": -1, "max": 1}} for name in NAMES[:8]],
        "monitors": NAMES[8:16],
        "guards": [{"name": name, "rewardHacking": {"monitor": NAMES[8]}} for name in NAMES[:16]],
        "evaluation": {
            "dataset": DATASET,
            "scorers": NAMES[:16],
            "baselines": ["Base", "WarmStart"],
            "suites": [{"name": name, "dataset": DATASET, "scorer": name} for name in NAMES[:16]],
        },
        "compute": {
            "env": [{"name": f"V{n}", "value": "v" * 4096} for n in range(64)],
            "template": {"metadata": {"annotations": {f"note-{n}": "x" * 1000 for n in range(200)}}},
        },
    }
    return merged(base, {"metadata": {"name": "a-job-whose-name-is-as-long-as-can-be-40"}, "spec": spec})


def largest_rollout(base: Manifest) -> Manifest:
    scorer = {"grader": {"llmJudge": {"url": "http://judge", "model": "m" * 253, "rubric": "r" * 8192}}}
    steps = [
        {"name": name, "weight": 5 * n, "mirror": {"percent": 10}, "hold": {"minimum": "1h1m1s1ms", "maximum": "24h"}}
        for n, name in enumerate(NAMES)
    ]
    metrics = [
        {"name": name, "preset": {"rewardWinRate": {"scorer": scorer, "min": 0.5}}, "initialDelay": "1h1m1s1ms"}
        for name in NAMES[:16]
    ]
    spec = {
        "strategy": {"steps": steps},
        "analysis": {"metrics": metrics},
        "serving": {"args": [f"--an-argument-{n}={'x' * 490}" for n in range(64)]},
        "route": {
            "paths": [f"/{n}/{'p' * 500}" for n in range(16)],
            "hostnames": [f"h{n}.example.com" for n in range(16)],
        },
    }
    return merged(base, {"metadata": {"name": "largest"}, "spec": spec})


def largest_reward_model(base: Manifest) -> Manifest:
    dimensions = [f"{'aDimensionOfFullLength':a<38}{n:02}" for n in range(16)]
    graders = [
        {"name": name, "dimension": dimension, "grader": {"regex": {"pattern": "p" * 1024}}}
        for name, dimension in zip(NAMES[:16], dimensions, strict=True)
    ]
    spec = {"dimensions": dimensions, "source": {"graders": graders}}
    return merged(base, {"metadata": {"name": "largest"}, "spec": spec})


def test_the_largest_job_is_taken_and_can_be_suspended(cluster: Cluster, bases: dict[str, Manifest]) -> None:
    job = cluster.create(largest_job(bases["ppo"]))
    changed = cluster.patch(job, {"spec": {"suspend": True}})
    assert changed["spec"]["suspend"] is True
    cluster.delete(job)


def test_the_largest_rollout_is_taken_and_can_be_changed(cluster: Cluster, bases: dict[str, Manifest]) -> None:
    rollout = cluster.create(largest_rollout(bases["rollout"]))
    cluster.patch(rollout, {"spec": {"revisionHistoryLimit": 3}})
    cluster.delete(rollout)


def test_the_largest_reward_model_is_taken_and_can_be_changed(cluster: Cluster, bases: dict[str, Manifest]) -> None:
    model = cluster.create(largest_reward_model(bases["graders"]))
    cluster.patch(model, {"spec": {"versionsLimit": 3}})
    cluster.delete(model)

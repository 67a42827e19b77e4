"""Act four: a better candidate goes live step by step; a hacked and a faulty one go back by themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from demo import manifests
from demo.acts.stage import Stage, newest
from demo.acts.traffic import alone
from demo.cluster import ClusterError, Object
from demo.faulty import faulty_serving
from demo.table import variant


def better(stage: Stage) -> None:
    """Copies of the live requests, a tenth, a half, everything."""
    release(stage, "better", {"model": of_job(stage.scene.better)}, "Promoted")


def hacked(stage: Stage) -> None:
    """Its own gate passed; the reward model that compares live answers takes it back."""
    entry = release(stage, "hacked", {"model": of_job(stage.scene.hacked)}, "RolledBack")
    _by(stage, entry, "wins")


def faulty(stage: Stage) -> None:
    """The policy that serves, by a build of the server that fails half of its answers."""
    serving = faulty_serving(manifests.dressed(stage.scene.rollout, stage.place)["spec"]["serving"])
    entry = release(stage, "faulty", {"model": of_job(serves(stage)), "serving": serving}, "RolledBack")
    _by(stage, entry, "errors")


def serves(stage: Stage) -> Object:
    """The job whose policy the users have now."""
    first, better = stage.scene.first, stage.scene.better
    job = stage.cluster.get("rlhfjobs.rlhf.dev", better["metadata"]["name"]) or {}
    digest = ((job.get("status") or {}).get("artifact") or {}).get("digest")
    return better if variant(stage.rollout(), "Stable").get("digest") == digest else first


def of_job(job: Object) -> dict[str, Any]:
    """The part of a rollout's spec that says whose artifact is served."""
    return {"rlhfJobRef": {"name": job["metadata"]["name"]}}


def release(stage: Stage, called: str, spec: Mapping[str, Any], outcome: str) -> Mapping[str, Any]:
    """Change the rollout's spec as a person does, and watch until its candidate has ended; returns the history's entry.

    Raises ClusterError when it ended in another way than the act is about.
    """
    before = newest(stage.rollout())
    body = json.dumps({"spec": dict(spec)})
    stage.cluster.run("patch", "policyrollouts.rlhf.dev", stage.name, "--type=merge", "-p", body)
    stage.voice.say(f"kubectl patch policyrollout {stage.name}: the candidate is called {called}")
    seen = stage.watch(f"the end of {called}", called, lambda seen: newest(seen) != before and alone(seen))
    entry = newest(seen)
    stage.voice.say(f"{called}: {entry.get('outcome')}: {entry.get('message') or entry.get('reason')}")
    if stage.scene.certain and entry.get("outcome") != outcome:
        raise ClusterError(f"{called} should be {outcome} and was {entry.get('outcome')}: {entry.get('message')}")
    return entry


def _by(stage: Stage, entry: Mapping[str, Any], metric: str) -> None:
    failed = [each["metric"] for each in entry.get("metrics") or () if each.get("outcome") == "Failed"]
    if stage.scene.certain and metric not in failed:
        raise ClusterError(f"{metric} should have taken it back, and it was {', '.join(failed) or 'nothing'}: {entry}")

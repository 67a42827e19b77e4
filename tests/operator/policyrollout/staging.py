"""Stories of small rollouts without holds, and what they leave: what two of them share when both end alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from opkit.api import Object
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    EVENTS,
    HTTPROUTES,
    PDBS,
    POLICYROLLOUTS,
    SECRETS,
    SERVICES,
)

from .conftest import World, artifact, variant

STRATEGY: dict[str, Any] = {"bake": "0s", "scaleDownDelay": "1s"}
SHADOW = {"name": "shadow", "mirror": {"percent": 20}}
TEN = {"name": "ten", "weight": 10}
CHILDREN = (HTTPROUTES, DEPLOYMENTS, SERVICES, PDBS, CONTROLLERREVISIONS, CONFIGMAPS, SECRETS)
PATIENCE = 240.0
"""Seconds: several stories are told at once, and operators start again."""
CHANCE = (
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
    (re.compile(r"(ROLLOUT-[0-9a-f]{10})-[0-9a-z]{6,10}-[0-9a-z]{5}"), r"\1-POD"),
)
GIVEN = ("clusterIP", "clusterIPs")
"""What the API server puts into a Service by chance."""


Story = Callable[[World, str], None]


def end_state(world: World, name: str) -> Any:
    """The children, status and route, without names, times and what is random."""
    rollout = world.api.get(POLICYROLLOUTS, world.namespace, name)
    found: Object = {"status": (rollout or {}).get("status")}
    for resource in CHILDREN:
        for each in world.api.list(resource, world.namespace, f"rlhf.dev/rollout={name}"):
            found[f"{resource} {each['metadata']['name']}"] = kept(resource, each)
    found["traffic"] = world.weights(name)
    return json.loads(without_chance(json.dumps(found), world, name))


def events(world: World, name: str) -> list[str]:
    """What was said of the rollout, each as often as it was."""
    said = []
    for each in world.api.list(EVENTS, world.namespace):
        if (each["regarding"]["kind"], each["regarding"]["name"]) == (POLICYROLLOUTS.kind, name):
            words = f"{each['type']} {each['reason']}: {each['note']}"
            said += [without_chance(words, world, name)] * ((each.get("series") or {}).get("count") or 1)
    return sorted(said)


def without_chance(text: str, world: World, name: str) -> str:
    """A text in which no two rollouts differ."""
    text = text.replace(name, "ROLLOUT").replace(world.namespace, "NAMESPACE")
    for pattern, instead in CHANCE:
        text = pattern.sub(instead, text)
    return text


def kept(resource: Any, manifest: Object) -> Object:
    """What of an object says what it is for."""
    meta = manifest["metadata"]
    spec = {name: value for name, value in (manifest.get("spec") or {}).items() if name not in GIVEN}
    data = manifest.get("data") or {}
    return {
        "labels": meta.get("labels"),
        "annotations": meta.get("annotations"),
        "owners": [each["name"] for each in meta.get("ownerReferences") or ()],
        "spec": spec,
        "data": sorted(data) if resource is SECRETS else data,
    }


def promoted(world: World, name: str) -> None:
    """Shadow, ten percent, everything."""
    one = begun(world, name, [SHADOW, TEN])
    status = world.serves(name, sha256_of(b"two"), PATIENCE)
    two = variant(status, "Stable")["revision"]
    world.wait("the former pods to go", lambda: world.deployments(name) == {one: 0, two: 1}, PATIENCE)


def rolled_back(world: World, name: str) -> None:
    """The candidate's container ends again and again at ten percent."""
    one = begun(world, name, [SHADOW, {**TEN, "hold": {"minimum": "1h"}}])
    status = world.until(name, lambda seen: variant(seen, "Candidate").get("weight") == 10, PATIENCE)
    two = variant(status, "Candidate")["revision"]
    world.crash(two)
    world.until(name, lambda seen: seen.get("rejected"), PATIENCE)
    world.wait("the candidate's pods to go", lambda: world.deployments(name) == {one: 1, two: 0}, PATIENCE)


def begun(world: World, name: str, steps: list[Object]) -> str:
    """One serves, and two is wanted; returns the revision of one."""
    world.apply(name, serving={"replicas": 1, "drainTimeout": "1s"}, strategy=STRATEGY | {"steps": steps})
    revision: str = variant(world.serves(name, sha256_of(b"one"), PATIENCE), "Stable")["revision"]
    world.patch(name, model={"artifact": artifact("two")})
    return revision


def settled(world: World, name: str) -> Any:
    """The end state once it was the same in ten looks."""
    seen = [end_state(world, name)]
    while len(seen) < 10 or any(each != seen[-1] for each in seen[-10:]):
        seen.append(end_state(world, name))
    return seen[-1]


def differences(left: Any, right: Any) -> dict[str, tuple[Any, Any]]:
    """Where two end states differ, by path."""
    one, other = dict(_leaves(left)), dict(_leaves(right))
    return {
        path: (one.get(path), other.get(path))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict | list):
        yield path, value
        return
    for name, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(each, f"{path}/{name}")

"""The whole loop, act by act: preferences, a reward model, policies, live traffic, and the way back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from demo import manifests
from demo.acts import candidates, policies, rewards, traffic
from demo.acts.stage import Stage
from demo.cluster import Loader, Object, is_true
from demo.install import Place
from demo.run import BASE
from demo.scene import Scene
from demo.table import Board
from demo.users import Tally
from demo.voice import Voice

INPUTS = "demo-inputs"
"""ConfigMap that says what the objects in the namespace were made from."""


@dataclass(frozen=True, slots=True)
class Act:
    """One act, and how long it takes."""

    title: str
    play: Callable[[Stage], None]
    seconds: float
    """On two quiet cores."""


def _first(stage: Stage) -> None:
    policies.begin(stage, stage.scene.first)
    policies.finish(stage, stage.scene.first)


def _live(stage: Stage) -> None:
    # What is served next is trained while the pods of the first one start.
    policies.begin(stage, stage.scene.better)
    traffic.open_route(stage)
    traffic.send_users(stage)


def _better(stage: Stage) -> None:
    policies.finish(stage, stage.scene.better)
    policies.begin(stage, stage.scene.hacked)
    candidates.better(stage)


def _hacked(stage: Stage) -> None:
    policies.finish(stage, stage.scene.hacked)
    candidates.hacked(stage)


ACTS: Sequence[Act] = (
    Act("a reward model from what three annotators preferred", rewards.play, 180),
    Act("a first policy: PPO against the reward model", _first, 100),
    Act("the first policy goes live", _live, 120),
    Act("a better policy: copies, 10 %, 50 %, everything", _better, 360),
    Act("a reward-hacked policy, which its own gate let through", _hacked, 240),
    Act("a build of the server that throws errors", candidates.faulty, 150),
)


def left_seconds(done: int, elapsed: float) -> float:
    """How long the acts from number `done` on take, by how slow this machine was with those before.

    Acts that found their work done took no time, which says nothing of the others.
    """
    planned = sum(act.seconds for act in ACTS[:done])
    pace = max(1.0, elapsed / planned) if planned else 1.0
    return pace * sum(act.seconds for act in ACTS[done:])


def play(scene: Scene, place: Place, voice: Voice) -> None:
    """Every act in turn, and what came of it. Raises ClusterError when one does not end as it is meant to."""
    stage = Stage(place, scene, voice, Board(lambda: voice.seconds))
    voice.step("the files and objects that the acts start from")
    prepare(stage)
    start = voice.seconds
    try:
        for number, act in enumerate(ACTS):
            minutes = left_seconds(number, voice.seconds - start) / 60
            voice.step(f"act {number + 1} of {len(ACTS)}: {act.title} (about {minutes:.0f} min left)")
            act.play(stage)
        summary(stage.rollout(), stage.counts(), stage.names)
    finally:
        if stage.users is not None:
            stage.users.end()


def prepare(stage: Stage) -> None:
    """Claim, base model and data. What an earlier demo made from the same is kept; its rollout always starts over."""
    cluster, scene = stage.cluster, stage.scene
    cluster.delete("pod", traffic.POD)
    cluster.delete("policyrollouts.rlhf.dev", stage.name)
    kept = [manifests.dressed(each, stage.place) for each in (*scene.common, *scene.trained)]
    made_from = manifests.digest(kept, scene.base.name)
    before = ((cluster.get("configmap", INPUTS) or {}).get("data") or {}).get("digest")
    trained = [(f"{each['kind'].lower()}s.rlhf.dev", each["metadata"]["name"]) for each in scene.trained]
    stuck = [name for kind, name in trained if is_stuck(cluster.get(kind, name))]
    if before == made_from and not stuck:
        stage.voice.say("the same as last time: what is trained already is kept")
        return
    for kind, name in reversed(trained):
        cluster.delete(kind, name)
    stage.apply(*scene.common)
    with Loader(cluster, scene.claim, stage.place.loader_image) as loader:
        loader.remove("*")
        for target, folder in {BASE: scene.base, **scene.uploads}.items():
            loader.upload(folder, target)
            stage.voice.say(f"{target}/ is there")
    stamp = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": INPUTS}, "data": {"digest": made_from}}
    cluster.apply([stamp])


def is_stuck(seen: Object | None) -> bool:
    """Whether an object ended without a result: what is the same as last time would only fail again."""
    return any(is_true(seen, kind) for kind in ("Failed", "Stalled"))


def summary(rollout: Object, users: Tally, names: Mapping[str, str], stream: TextIO | None = None) -> None:
    """What happened, from the rollout's own history, and what the users saw of it."""
    lines = ["", f"{'revision':<12}{'called':<10}{'outcome':<13}why"]
    for entry in reversed((rollout.get("status") or {}).get("history") or ()):
        revision = str(entry.get("revision"))
        called = names.get(revision, "")
        lines.append(f"{revision:<12}{called:<10}{entry.get('outcome') or '':<13}{entry.get('message') or ''}")
    answered = ", ".join(f"{names.get(name, name)} {count:,}" for name, count in users.revisions.items())
    lines += ["", f"users: {users.told}; answered by: {answered}"]
    (stream or sys.stdout).write("\n".join(lines) + "\n")

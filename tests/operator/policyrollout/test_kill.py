"""The operator killed with SIGKILL again and again while rollouts go their way: each ends as one undisturbed does.

A watcher looks at routes and pods all the time: what must never be so is held against everything that it saw.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from opkit.api import Api, ApiError, Object
from opkit.process import OperatorProcess
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import DEPLOYMENTS, HTTPROUTES
from testbed.bed import Bed

from .conftest import FAST, REVISION, World, artifact, opened, variant

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("KILLS", "12"))
SEED = 20261121
NAMES = ("first", "second", "third")


class Watcher(threading.Thread):
    """Notes every traffic that a route ever asked for, and what was never to be."""

    def __init__(self, bed: Bed, namespace: str) -> None:
        super().__init__(name="watcher", daemon=True)
        self._kubeconfig, self._namespace = bed.kubeconfig, namespace
        self._over = threading.Event()
        self.seen: dict[str, list[tuple[str, dict[str, int]]]] = {}
        """By rollout: step and weights, each time they were others."""
        self.wrong: list[str] = []

    def run(self) -> None:
        with closing(Api(self._kubeconfig)) as api:
            while not self._over.wait(0.02):
                try:
                    # Pods first: those that a weight needs were ready before it was written.
                    ready = {
                        each["metadata"]["labels"].get(REVISION): (each.get("status") or {}).get("readyReplicas", 0)
                        for each in api.list(DEPLOYMENTS, self._namespace)
                    }
                    routes = api.list(HTTPROUTES, self._namespace)
                except ApiError:
                    continue
                for route in routes:
                    self._look(route, ready)

    def _look(self, route: Object, ready: dict[str | None, int]) -> None:
        name = route["metadata"]["name"]
        rule = route["spec"]["rules"][0]
        weights: Counter[str] = Counter()
        for each in rule["backendRefs"]:
            weights[each["name"].removeprefix(f"{name}-")] += each["weight"]
        step = route["metadata"]["annotations"]["rlhf.dev/step"]
        if sum(weights.values()) != 100:
            self.wrong.append(f"{name}: weights {weights} are not 100")
        self.wrong += [f"{name}: {each} has weight and no pod in {step}" for each in weights if not ready.get(each)]
        known = self.seen.setdefault(name, [])
        if not known or known[-1] != (step, weights):
            known.append((step, weights))

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join(10)


@pytest.fixture
def unattended(bed: Bed) -> Iterator[World]:
    with opened(bed, "killed") as world:
        yield world


def test_an_operator_that_is_killed_over_and_over_ends_every_rollout_as_one_that_is_not(
    unattended: World, tmp_path: Path
) -> None:
    world, dice = unattended, random.Random(SEED)
    settings = FAST | {"NAMESPACES": world.namespace}
    for name in NAMES:
        world.apply(name)
    with OperatorProcess(tmp_path / "undisturbed", world.bed.kubeconfig, settings=settings) as operator:
        operator.wait_ready(60)
        ones = {name: variant(world.serves(name, sha256_of(b"one")), "Stable")["revision"] for name in NAMES}
    watcher = Watcher(world.bed, world.namespace)
    watcher.start()
    for name in NAMES:
        world.patch(name, model={"artifact": artifact("two")})
    killed = 0
    while killed < KILLS:
        with OperatorProcess(tmp_path / f"killed-{killed}", world.bed.kubeconfig, settings=settings) as operator:
            operator.wait_ready(60)
            # Somewhere between its first look and a few writes later.
            time.sleep(dice.uniform(0.0, 1.5))
        killed += 1
    with OperatorProcess(tmp_path / "last", world.bed.kubeconfig, settings=settings) as operator, operator.sound():
        operator.wait_ready(60)
        statuses = {name: world.serves(name, sha256_of(b"two"), 120) for name in NAMES}
        twos = {name: variant(status, "Stable")["revision"] for name, status in statuses.items()}
        for name in NAMES:
            world.asleep(name, ones[name], twos[name])
    watcher.stop()
    assert not watcher.wrong, watcher.wrong[:5]
    for name, status in statuses.items():
        history = [(each["revision"], each["outcome"]) for each in status["history"]]
        assert history == [(twos[name], "Promoted"), (ones[name], "Promoted")], history
        grown = [weights.get(twos[name], 0) for _, weights in watcher.seen[name]]
        assert grown == sorted(grown), f"{name}: a weight went back: {watcher.seen[name]}"
        steps = [step for step, _ in watcher.seen[name]]
        order = ["", "-1 starting", "0 shadow", "1 ten", "2 half", "3 bake", ""]
        assert [step for index, step in enumerate(steps) if index == 0 or step != steps[index - 1]] == order

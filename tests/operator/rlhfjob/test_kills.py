"""The operator killed with SIGKILL at random points while jobs run, fail, are retried and published."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opkit.api import Api, ApiError, Object
from opkit.kubelet import pods_of
from opkit.process import OperatorProcess
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import CONFIGMAPS, EVENTS, JOBS, PODS, RLHFJOBS, SERVICES

from .conftest import FAST, World, verdict

KILLS = 50
JOBS_IN_ALL = 20
SEED = 17
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}


class Fate:
    """Ends every running pod of a namespace as its job's name says, whether an operator is there or not.

    `crash-…`: the first attempt crashes. `drain-…`: its first attempt's second pod is taken away. All others succeed.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Fate:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _loop(self) -> None:
        api = Api(self._world.api.kubeconfig)
        while not self._stop.wait(0.1):
            try:
                for job in api.list(JOBS, self._world.namespace):
                    self._decide(api, job)
            except ApiError:
                continue  # Deleted meanwhile: the next round sees what is there.
        api.close()

    def _decide(self, api: Api, job: Object) -> None:
        labels, name = job["metadata"]["labels"], job["metadata"]["name"]
        pods = pods_of(api, self._world.namespace, name)
        running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
        workers = job["spec"].get("completions") or 1
        if len(running) < workers:
            return
        owner, end = labels["rlhf.dev/job"], self._world.kubelet.end
        digest = self._plan_digest(api, owner)
        if labels["rlhf.dev/role"] == "publish":
            artifact = {
                "ref": f"pvc://models/artifacts/{owner}",
                "digest": sha256_of(owner.encode()),
                "gate": "NotEvaluated",
                "baseModelDigest": digest,
                "datasetDigests": [digest],
                "planDigest": digest,
            }
            end(api, running[0], 0, verdict(digest, artifact=artifact))
        elif labels["rlhf.dev/role"] == "collect" or not self._first_of(owner, labels):
            for pod in reversed(running):
                end(api, pod, 0, verdict(digest))
        elif owner.startswith("crash"):
            end(api, running[1], 137, "")
            end(api, running[0], 82, "")
        else:
            end(api, running[1], 75, "", conditions=[DISRUPTED])
            end(api, running[0], 82, "")

    @staticmethod
    def _first_of(owner: str, labels: Object) -> bool:
        return labels["rlhf.dev/attempt"] == "1" and not owner.startswith("plain")

    def _plan_digest(self, api: Api, owner: str) -> str:
        plan = api.list(CONFIGMAPS, self._world.namespace, f"rlhf.dev/job={owner},rlhf.dev/role=plan")[0]
        return sha256_of(plan["data"]["plan.json"].encode())


def outcome(job: Object) -> Any:
    """What must not depend on how often the operator was killed."""
    status = job["status"]
    return {
        "phase": status["phase"],
        "conditions": {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]},
        "attempts": [(each["number"], each["class"], each["microBatchSize"]) for each in status["attempts"]],
        "restarts": status["restarts"],
        "artifact": status["artifact"],
        "planDigest": status["planDigest"],
    }


def names() -> list[str]:
    kinds = ("plain", "crash", "drain")
    return [f"{kinds[index % 3]}-{index}" for index in range(JOBS_IN_ALL)]


def outcomes(world: World) -> dict[str, Any]:
    """How every job ended, once all are Complete."""
    for name in names():
        world.until_phase(name, "Complete", 180)
    return {name: outcome(world.api.get(RLHFJOBS, world.namespace, name) or {}) for name in names()}


def children(world: World) -> list[str]:
    """Everything of ours that is left, and how it is called."""
    ours = "app.kubernetes.io/managed-by=rlhf-operator"
    kinds = (JOBS, PODS, CONFIGMAPS, SERVICES)
    return [f"{k.kind}/{each['metadata']['name']}" for k in kinds for each in world.api.list(k, world.namespace, ours)]


@contextmanager
def killed_again_and_again(world: World, folder: Path, wait: Callable[[float], bool]) -> Iterator[None]:
    """Start operators and kill them at random points, the jobs being created in between."""
    chance = random.Random(SEED)
    settings = {**FAST, "NAMESPACES": world.namespace}
    todo = names()
    for kill in range(KILLS):
        with OperatorProcess(folder / str(kill), world.bed.kubeconfig, settings=settings) as operator:
            if kill % 2 == 0 and todo:
                world.apply(todo.pop(0))
            # Some die before they are ready, some while they write, some when all is quiet.
            if chance.random() < 0.6:
                operator.wait_ready(120)
            wait(chance.choice([0.05, 0.2, 0.5, 2.0]) * chance.random())
            operator.process.kill()
            assert "Traceback" not in operator.log(), operator.log()
    with OperatorProcess(folder / "last", world.bed.kubeconfig, settings=settings) as operator:
        operator.wait_ready(120)
        yield
        assert "Traceback" not in operator.log(), operator.log()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_operator_killed_fifty_times_ends_where_an_undisturbed_one_does(idle_world: World, tmp_path: Path) -> None:
    world, pause = idle_world, threading.Event()
    with Fate(world), killed_again_and_again(world, tmp_path, pause.wait):
        disturbed = outcomes(world)
        trained = sorted(
            each["metadata"]["name"] for each in world.api.list(JOBS, world.namespace, "rlhf.dev/role=train")
        )
        expected = sorted(f"{name}-train-{1 if name.startswith('plain') else 2}" for name in names())
        # No Job is doubled, none of a former attempt is left.
        assert trained == expected
        for name in names():
            world.api.delete(RLHFJOBS, world.namespace, name)
        world.wait("nothing is left", lambda: not children(world), 120)
        for name in names():
            world.apply(name)
        undisturbed = outcomes(world)
    assert disturbed == undisturbed
    assert world.api.list(EVENTS, world.namespace)

"""The operator killed with SIGKILL at random points, over and over: the end is that of an undisturbed run.

Two namespaces of one control plane hold the same twenty jobs. One operator is left alone, the other is killed fifty
times; the pods of both are played by the test, each job by the same script.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from opkit.api import Api, ApiError, Object
from opkit.kubelet import INDEX, Kubelet, make_node
from opkit.plane import private_plane
from opkit.process import OperatorProcess, wait_for
from rlhf_operator.api.exitcodes import ExitCode, FailureClass
from rlhf_operator.api.result import TerminationMessage
from rlhf_operator.common.intents import MANAGED_SELECTOR
from rlhf_operator.common.resources import CONFIGMAPS, JOBS, PODS, PVCS, RLHFJOBS, SERVICES
from testbed.bed import Bed

KILLS = int(os.environ.get("KILLS", "50"))
JOBS_COUNT = 20
# Kills after which every job is there; those that come later hit retries and ends.
LAST_JOB_AFTER = max(1, KILLS * 4 // 5)
NODE = "node-a"
SEED = 20261121
DELETED = None
# How attempts end, by the job's number: in attempt 1, 2, … the exit code of each pod, in the order of their indexes;
# all exit 0 from then on. DELETED: somebody deletes the pod by force while it runs.
SCRIPTS: tuple[tuple[tuple[int | None, ...], ...], ...] = (
    (),
    ((82,),),
    ((81,),),
    ((80,),),
    ((82, 70),),
    ((82, DELETED),),
    ((DELETED,), (70,)),
)
CHILDREN = (JOBS, CONFIGMAPS, SERVICES, PODS)
SETTINGS = {
    "PROGRESS_INTERVAL_SECONDS": "60",
    "LEASE_DURATION_SECONDS": "15",
    "BACKOFF_MAX_SECONDS": "2",
}
# What differs between two runs of the same job and means nothing.
VOLATILE = {
    "lastTransitionTime",
    "from",
    "to",
    "at",
    "updatedAt",
    "startedAt",
    "finishedAt",
    "startTime",
    "completionTime",
}
# A plan names its namespace, and a pod has five letters of its own.
VOLATILE_WORDS = ((re.compile(r"sha256:[0-9a-f]{64}"), "sha256:"), (re.compile(r"-[a-z0-9]{5} on node"), " on node"))


def manifest(namespace: str, number: int) -> Object:
    spec: dict[str, Any] = {
        "baseModel": {"pvc": {"claimName": "models", "path": "base"}},
        "dataset": {"configMap": {"name": "prompts", "key": "train.jsonl"}, "format": "Prompts"},
        "scorers": [{"name": "short", "grader": {"length": {"unit": "Words", "max": 8}}}],
        "rewards": [{"scorer": "short"}],
        "training": {"steps": 8, "batchSize": 16, "microBatchSize": 4},
        "ppo": {"miniBatches": 2},
        "compute": {"workers": workers(number)},
        "storage": {"claimName": "models"},
    }
    return {"metadata": {"name": f"job-{number:02d}", "namespace": namespace}, "spec": spec}


def script(number: int) -> tuple[tuple[int | None, ...], ...]:
    return SCRIPTS[number % len(SCRIPTS)]


def workers(number: int) -> int:
    return len(script(number)[0]) if script(number) else 2


class World(threading.Thread):
    """One namespace: its kubelet, and the script by which its pods end. Records every Job that ever was."""

    def __init__(self, bed: Bed, namespace: str) -> None:
        super().__init__(name=f"script of {namespace}", daemon=True)
        self.api = Api(bed.kubeconfig)
        self.namespace = namespace
        self.bed = bed
        self.jobs_seen: dict[str, set[str]] = {}
        self.problem: BaseException | None = None
        self._begun: set[tuple[str, ...]] = set()
        """Attempts whose pods have all run."""
        self._stop_asked = threading.Event()

    def prepare(self) -> None:
        self.api.create(
            CONFIGMAPS,
            {
                "metadata": {"name": "prompts", "namespace": self.namespace},
                "data": {"train.jsonl": '{"prompt": "a"}\n'},
            },
        )
        claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        self.api.create(PVCS, {"metadata": {"name": "models", "namespace": self.namespace}, "spec": claim})

    def run(self) -> None:
        with closing(Api(self.bed.kubeconfig)) as api:
            kubelet = Kubelet(api, self.namespace, NODE)
            with kubelet:
                while not self._stop_asked.wait(0.2):
                    try:
                        self._step(api, kubelet)
                    except ApiError:
                        # The object moved on; the next round sees it as it is.
                        continue
                    except BaseException as error:
                        self.problem = error
                        raise

    def close(self) -> None:
        self._stop_asked.set()
        self.join(15)
        self.api.close()

    def _step(self, api: Api, kubelet: Kubelet) -> None:
        digests = {
            job["metadata"]["name"]: (job.get("status") or {}).get("planDigest")
            for job in api.list(RLHFJOBS, self.namespace)
        }
        jobs = {job["metadata"]["name"]: job for job in api.list(JOBS, self.namespace, MANAGED_SELECTOR)}
        for name, job in jobs.items():
            self.jobs_seen.setdefault(name, set()).add(job["metadata"]["uid"])
        gangs: dict[tuple[str, ...], list[Object]] = {}
        for pod in api.list(PODS, self.namespace):
            labels = pod["metadata"].get("labels") or {}
            if pod["metadata"].get("deletionTimestamp") or digests.get(labels.get("rlhf.dev/job", "")) is None:
                continue
            gangs.setdefault(tuple(labels[f"rlhf.dev/{name}"] for name in ("job", "role", "attempt")), []).append(pod)
        for gang, pods in gangs.items():
            name, role, attempt = gang[0], gang[1], int(gang[2])
            running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
            codes = exit_codes(name, role, attempt)
            if len(running) == len(codes):
                self._begun.add(gang)
            if gang in self._begun:
                # The root cause first: it ends, or goes, before those that lose it.
                for pod in sorted(running, key=lambda pod: codes[index_of(pod)] == ExitCode.PEER_LOST):
                    self._end(api, kubelet, pod, codes[index_of(pod)], said(name, role, attempt, digests[name]))

    def _end(self, api: Api, kubelet: Kubelet, pod: Object, code: int | None, message: str) -> None:
        if code is DELETED:
            path = PODS.path(self.namespace, pod["metadata"]["name"])
            api.call("DELETE", path, {"gracePeriodSeconds": 0})
        else:
            kubelet.end(api, pod, code, message)


def index_of(pod: Object) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, 0))


def exit_codes(name: str, role: str, attempt: int) -> tuple[int | None, ...]:
    """How the pods of one Job end, by its RLHFJob's script."""
    number = int(name.rpartition("-")[2])
    if role != "train":
        return (70,) if role == "collect" else (0,)
    attempts = script(number)
    return attempts[attempt - 1] if attempt <= len(attempts) else (0,) * workers(number)


def said(name: str, role: str, attempt: int, digest: str) -> str:
    """The termination message of a pod."""
    if role == "train" and any(code != 0 for code in exit_codes(name, role, attempt)):
        return ""
    values: dict[str, Any] = {
        "planDigest": digest,
        "attempt": attempt,
        "reason": "Succeeded",
        "message": "8 steps",
        "step": 8,
    }
    if role == "publish":
        values["artifact"] = {
            "ref": f"pvc://models/artifacts/{name}",
            "digest": "sha256:" + "a" * 64,
            "gate": "NotEvaluated",
            "baseModelDigest": "sha256:" + "b" * 64,
            "datasetDigests": ["sha256:" + "c" * 64],
            "planDigest": digest,
        }
    elif role == "collect":
        # Nothing is collected of what never had a result.
        values |= {"failure": FailureClass.RESULT_UNKNOWN, "reason": "NoResult", "message": "no result.json"}
    return TerminationMessage.model_validate(values).encode().decode()


@pytest.fixture
def bed() -> Iterator[Bed]:
    with private_plane() as plane:
        with closing(Api(plane.kubeconfig)) as api:
            api.install_our_crds()
            make_node(api, NODE)
        yield plane


def operator(bed: Bed, folder: Path, namespace: str) -> OperatorProcess:
    settings = {**SETTINGS, "NAMESPACES": namespace, "LEASE_NAMESPACE": namespace}
    # As a container that is restarted in its pod: it takes its dead predecessor's Lease at once.
    return OperatorProcess(folder, bed.kubeconfig, settings=settings, environment={"POD_NAME": f"pod-{namespace}"})


def over(job: Object) -> bool:
    """Complete or Failed, and nothing left to do about it."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def plain(value: Any) -> Any:
    """A status without what no two runs share."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, str):
        for pattern, instead in VOLATILE_WORDS:
            value = pattern.sub(instead, value)
    return value


def statuses(world: World) -> dict[str, Any]:
    return {job["metadata"]["name"]: plain(job["status"]) for job in world.api.list(RLHFJOBS, world.namespace)}


def children(world: World) -> dict[str, list[str]]:
    return {
        resource.plural: sorted(
            child["metadata"]["name"]
            for child in world.api.list(resource, world.namespace, MANAGED_SELECTOR)
            if not child["metadata"].get("deletionTimestamp")
        )
        for resource in (JOBS, CONFIGMAPS, SERVICES)
    }


def without_digest(names: dict[str, list[str]]) -> dict[str, list[str]]:
    return {kind: [re.sub(r"-plan-[0-9a-f]{12}$", "-plan", name) for name in each] for kind, each in names.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_change_nothing_in_the_end(bed: Bed, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with ExitStack() as stack:
        admin = stack.enter_context(closing(Api(bed.kubeconfig)))
        names = [stack.enter_context(admin.namespace(prefix)) for prefix in ("calm", "killed")]
        calm, killed = worlds = [World(bed, name) for name in names]
        for world in worlds:
            world.prepare()
            world.start()
            stack.callback(world.close)
        undisturbed = stack.enter_context(operator(bed, tmp_path / "calm", calm.namespace))
        created, lives, kills = 0, [], 0
        process = operator(bed, tmp_path / "killed-0", killed.namespace)
        try:
            while kills < KILLS:
                # Jobs come all along, so that every kill finds something in the making.
                while created < JOBS_COUNT and created <= kills * JOBS_COUNT // LAST_JOB_AFTER:
                    for world in worlds:
                        world.api.create(RLHFJOBS, manifest(world.namespace, created))
                    created += 1
                leads = _leads(process)
                # Anywhere from the first moment of a life to well into its work.
                moment = rng.choice((rng.uniform(0, 0.3), rng.uniform(0, 2.0)))
                time.sleep(moment)
                process.kill()
                lives.append((leads, round(moment, 3)))
                kills += 1
                process = operator(bed, tmp_path / f"killed-{kills}", killed.namespace)
            for world in worlds:
                wait_for(
                    f"the end of {world.namespace}",
                    lambda world=world: _settled(world),  # type: ignore[misc]
                    600,
                    every=1.0,
                )
            assert process.process.poll() is None
            _compare(calm, killed)
            assert undisturbed.process.poll() is None
            _clean_up(killed)
        finally:
            process.kill()
        (tmp_path / "kills.json").write_text(json.dumps(lives), encoding="utf-8")
        assert sum(leads for leads, _ in lives) == KILLS, "a kill before the Lease is held tests nothing"
        for world in worlds:
            assert world.problem is None
        logs = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*/log")]
        assert not [log for log in logs if "Traceback" in log]


def _leads(process: OperatorProcess) -> bool:
    """Wait until it acts: what a kill before that would hit is only Python's own start."""
    return bool(wait_for("the Lease", lambda: process.get("/readyz")[0] == 200 and process.leads(), 60))


def _settled(world: World) -> bool:
    jobs = world.api.list(RLHFJOBS, world.namespace)
    services = world.api.list(SERVICES, world.namespace, MANAGED_SELECTOR)
    return len(jobs) == JOBS_COUNT and all(over(job) for job in jobs) and not services


def _compare(calm: World, killed: World) -> None:
    assert statuses(killed) == statuses(calm)
    assert without_digest(children(killed)) == without_digest(children(calm))
    assert {name: len(uids) for name, uids in killed.jobs_seen.items()} == dict.fromkeys(calm.jobs_seen, 1), (
        "the same Jobs as undisturbed, each made exactly once"
    )
    owners = {job["metadata"]["uid"] for job in killed.api.list(RLHFJOBS, killed.namespace)}
    for resource in (JOBS, CONFIGMAPS, SERVICES):
        for child in killed.api.list(resource, killed.namespace, MANAGED_SELECTOR):
            assert {reference["uid"] for reference in child["metadata"]["ownerReferences"]} <= owners


def _clean_up(world: World) -> None:
    """Deleting the jobs takes everything with it."""
    for number in range(JOBS_COUNT):
        world.api.delete(RLHFJOBS, world.namespace, f"job-{number:02d}")
    for resource in CHILDREN:
        wait_for(
            f"no {resource} to be left",
            lambda resource=resource: not world.api.list(resource, world.namespace, MANAGED_SELECTOR),  # type: ignore[misc]
            120,
            every=0.5,
        )

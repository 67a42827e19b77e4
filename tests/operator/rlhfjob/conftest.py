"""A control plane, the real operator, and a namespace whose pods are run by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from opkit.api import Api, Object
from opkit.kubelet import Kubelet, pods_of, running_pods
from opkit.process import OperatorProcess, wait_for
from rlhf_operator.api.result import TerminationMessage
from rlhf_operator.common.resources import CONFIGMAPS, JOBS, PODS, PVCS, RLHFJOBS
from testbed.bed import Bed

NODE = "node-a"
POD_IP = "127.0.0.2"
FAST = {"LEADER_ELECTION": "false", "PROGRESS_INTERVAL_SECONDS": "0.5", "KUEUE_TIMEOUT_SECONDS": "2"}


@dataclass
class World:
    """One namespace, its API client and its kubelet."""

    api: Api
    namespace: str
    kubelet: Kubelet
    bed: Bed

    def manifest(self, name: str, **overrides: Any) -> Object:
        """A job of two CPU workers that refers to nothing but a ConfigMap and a claim."""
        spec: dict[str, Any] = {
            "baseModel": {"pvc": {"claimName": "models", "path": "base"}},
            "dataset": {"configMap": {"name": "prompts", "key": "train.jsonl"}, "format": "Prompts"},
            "scorers": [{"name": "short", "grader": {"length": {"unit": "Words", "max": 8}}}],
            "rewards": [{"scorer": "short"}],
            "training": {"steps": 8, "batchSize": 16, "microBatchSize": 4},
            "ppo": {"miniBatches": 2},
            "compute": {"workers": 2},
            "storage": {"claimName": "models"},
        }
        return {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec | overrides}

    def apply(self, name: str, **overrides: Any) -> Object:
        """Create the job."""
        return self.api.create(RLHFJOBS, self.manifest(name, **overrides))

    def patch(self, name: str, **spec: Any) -> None:
        """Change the spec of a job."""
        self.api.patch(RLHFJOBS, self.namespace, name, {"spec": spec})

    def until(self, name: str, condition: Callable[[Object], Any], seconds: float = 120) -> Object:
        """The job's status once the condition holds of it; otherwise the status and pods that were seen last."""
        seen: Object = {}

        def look() -> Object | None:
            nonlocal seen
            job = self.api.get(RLHFJOBS, self.namespace, name)
            seen = (job or {}).get("status") or {}
            return seen if condition(seen) else None

        try:
            return wait_for(f"RLHFJob {name}", look, seconds)
        except TimeoutError as error:
            pods = [
                (pod["metadata"]["name"], pod["metadata"].get("deletionTimestamp"), pod.get("status"))
                for pod in self.api.list(PODS, self.namespace)
            ]
            raise TimeoutError(f"RLHFJob {name}: not within {seconds} s; status {seen}; pods {pods}") from error

    def until_phase(self, name: str, phase: str, seconds: float = 120) -> Object:
        """The job's status once it is in this phase."""
        return self.until(name, lambda status: status.get("phase") == phase, seconds)

    def job(self, name: str) -> Object | None:
        """A batch Job."""
        return self.api.get(JOBS, self.namespace, name)

    def image(self, job: str) -> str:
        """The image of a Job's pods."""
        found = self.job(job)
        assert found is not None
        image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
        return image

    def jobs(self, owner: str) -> list[Object]:
        """The batch Jobs of an RLHFJob."""
        return self.api.list(JOBS, self.namespace, f"rlhf.dev/job={owner}")

    def running(self, job: str, count: int = 2) -> list[Object]:
        """The pods of a batch Job once all run."""
        return running_pods(self.api, self.namespace, job, count)

    def exit(self, job: str, codes: dict[int, int], messages: dict[int, str] | None = None, **more: Any) -> None:
        """End pods of a running Job, by index."""
        pods = pods_of(self.api, self.namespace, job)
        for index, code in codes.items():
            self.kubelet.end(self.api, pods[index], code, (messages or {}).get(index, ""), **more)

    def succeed(self, job: str, plan_digest: str, **fields: Any) -> None:
        """Every pod of a training Job exits 0, rank 0 with a verdict."""
        self.exit(job, {1: 0, 0: 0}, {0: verdict(plan_digest, **fields)})

    def publish(self, name: str, attempt: int, plan_digest: str, gate: str = "NotEvaluated", **fields: Any) -> None:
        """The publish pod ends with a record."""
        job = f"{name}-publish-{attempt}"
        self.running(job, 1)
        artifact = {
            "ref": f"pvc://models/artifacts/{name}",
            "digest": "sha256:" + "a" * 64,
            "gate": gate,
            "baseModelDigest": "sha256:" + "b" * 64,
            "datasetDigests": ["sha256:" + "c" * 64],
            "planDigest": plan_digest,
        }
        self.exit(job, {0: 0}, {0: verdict(plan_digest, artifact=artifact | fields)})

    def settled_version(self, name: str) -> str:
        """The resourceVersion of the job once it was the same in ten looks."""
        seen: list[str] = []

        def look() -> bool:
            job = self.api.get(RLHFJOBS, self.namespace, name)
            seen.append(job["metadata"]["resourceVersion"] if job is not None else "")
            return len(seen) >= 10 and len(set(seen[-10:])) == 1

        self.wait(f"{name} settles", look)
        return seen[-1]

    def wait(self, what: str, look: Callable[[], Any], seconds: float = 120) -> Any:
        """Look until something true is seen."""
        return wait_for(what, look, seconds)


def verdict(plan_digest: str, **fields: Any) -> str:
    """A termination message of rank 0."""
    values: dict[str, Any] = {
        "planDigest": plan_digest,
        "attempt": 1,
        "reason": "Succeeded",
        "message": "8 steps",
        "step": 8,
    }
    return TerminationMessage.model_validate(values | fields).encode().decode()


@pytest.fixture(scope="module")
def operator(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    with OperatorProcess(tmp_path_factory.mktemp("operator"), bed.kubeconfig, settings=FAST) as process:
        process.wait_ready(120)
        yield process


@pytest.fixture
def idle_world(bed: Bed) -> Iterator[World]:
    """A namespace without an operator."""
    api = Api(bed.kubeconfig)
    with api.namespace("rj") as namespace, Kubelet(api, namespace, NODE, POD_IP) as kubelet:
        prompts = {
            "metadata": {"name": "prompts", "namespace": namespace},
            "data": {"train.jsonl": '{"prompt": "a"}\n'},
        }
        api.create(CONFIGMAPS, prompts)
        api.create(PVCS, claim(namespace, "models", "ReadWriteMany"))
        yield World(api, namespace, kubelet, bed)
    api.close()


@pytest.fixture
def world(idle_world: World, operator: OperatorProcess) -> Iterator[World]:
    """A namespace that the operator serves. What it logged of errors fails the test."""
    with operator.sound():
        yield idle_world


def claim(namespace: str, name: str, mode: str) -> Object:
    """A claim that nobody binds: no pod of these tests mounts anything."""
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}

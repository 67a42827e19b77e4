"""A control plane with the operator on it; the test plays scheduler, kubelet, trainer and judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from opkit.api import Api, Object, condition
from opkit.kubelet import Kubelet, pods_of, running_pods
from opkit.process import OperatorProcess, wait_for
from rlhf_operator.api.result import TerminationMessage
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import CONFIGMAPS, DEPLOYMENTS, PODS, PVCS, REWARDMODELS, SERVICES
from testbed.bed import Bed

NODE = "node-a"
FAST = {
    "LEADER_ELECTION": "false",
    "PROGRESS_INTERVAL_SECONDS": "0.5",
    "FORMER_VERSION_SECONDS": "5",
    "SERVER_IMAGE": "registry.example/server:1",
    "PROMETHEUS_URL": "http://prometheus.monitoring:9090",
}
VERSION = "rlhf.dev/version"
ENDPOINT = "192.0.2.1"
"""An address for documentation: nobody asks it."""


class Judges(Kubelet):
    """A kubelet whose scorer pods are ready unless their version is told not to be."""

    unready: frozenset[str] = frozenset()
    """Versions, by tag, whose probes fail."""

    def _status(self, api: Api, pod: Object, status: Mapping[str, Any]) -> None:
        # No endpoint may be a loopback address.
        scorer = VERSION in (pod["metadata"].get("labels") or {}) and "podIP" in status
        super()._status(api, pod, {**status, "podIP": ENDPOINT} if scorer else status)

    def _tend(self, api: Api, pod: Object) -> None:
        tag = (pod["metadata"].get("labels") or {}).get(VERSION)
        conditions = (pod.get("status") or {}).get("conditions") or ()
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        if tag in self.unready and pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp"):
            return
        running = (pod.get("status") or {}).get("phase") == "Running"
        if tag is not None and running and not ready and not pod["metadata"].get("deletionTimestamp"):
            self.start(api, pod)
            return
        super()._tend(api, pod)


@dataclass
class World:
    """One namespace, its API client and its kubelet."""

    api: Api
    namespace: str
    kubelet: Judges
    bed: Bed

    def apply(self, name: str, **changes: Any) -> Object:
        """Create a RewardModel on one CPU worker that refers to nothing but a ConfigMap and a claim."""
        spec: dict[str, Any] = {
            "source": {
                "train": {
                    "baseModel": {"pvc": {"claimName": "models", "path": "encoder"}},
                    "dataset": {"configMap": {"name": "pairs", "key": "pairs.jsonl"}, "format": "Pairs"},
                    "training": {"epochs": 1, "batchSize": 8},
                }
            },
            "evaluation": {"split": {"folds": 5}, "minAccuracy": 0.55},
            "storage": {"claimName": "models"},
        }
        manifest = {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec | changes}
        return self.api.create(REWARDMODELS, manifest)

    def patch(self, name: str, **spec: Any) -> None:
        """Change the spec."""
        self.api.patch(REWARDMODELS, self.namespace, name, {"spec": spec})

    def epochs(self, name: str, number: int) -> None:
        """Ask for another training."""
        self.patch(name, source={"train": {"training": {"epochs": number}}})

    def until(self, name: str, holds: Callable[[Object], Any], seconds: float = 120) -> Object:
        """The status once the condition holds of it; otherwise what was seen last."""
        seen: Object = {}

        def look() -> Object | None:
            nonlocal seen
            seen = (self.api.get(REWARDMODELS, self.namespace, name) or {}).get("status") or {}
            return seen if holds(seen) else None

        try:
            return wait_for(f"RewardModel {name}", look, seconds)
        except TimeoutError as error:
            pods = [(pod["metadata"]["name"], pod.get("status")) for pod in self.api.list(PODS, self.namespace)]
            raise TimeoutError(f"RewardModel {name}: not within {seconds} s; status {seen}; pods {pods}") from error

    def until_condition(self, name: str, condition_type: str, status: str, reason: str) -> Object:
        """The status once a condition has this status and reason."""

        def holds(seen: Object) -> bool:
            found = condition(seen, condition_type)
            return (found.get("status"), found.get("reason")) == (status, reason)

        return self.until(name, holds)

    def train(self, name: str, attempt: int) -> str:
        """The training of an attempt succeeds; returns the plan's digest."""
        job = f"{name}-train-{attempt}"
        running_pods(self.api, self.namespace, job, 1)
        digest: str = self.until(name, lambda seen: (seen.get("run") or {}).get("planDigest"))["run"]["planDigest"]
        self._exit(job, verdict(digest, attempt=attempt))
        return digest

    def publish(self, name: str, attempt: int, plan: str, version: str, gate: str = "Passed") -> str:
        """The newest publish pod of an attempt ends with a record; returns the version's digest."""
        prefix = f"{name}-publish-{attempt}-"

        def pod() -> Object | None:
            found = [
                each
                for each in self.api.list(PODS, self.namespace)
                if each["metadata"]["name"].startswith(prefix)
                and (each.get("status") or {}).get("phase") == "Running"
                and not each["metadata"].get("deletionTimestamp")
            ]
            return found[0] if len(found) == 1 else None

        digest = sha256_of(f"{name} {version}".encode())
        place = f"pvc://models/reward-models/{name}" if gate != "Failed" else f"workspace://{name}-x"
        artifact: dict[str, Any] = {
            "ref": f"{place}/{digest.replace(':', '-')}",
            "digest": digest,
            "gate": gate,
            "gateMessage": "" if gate != "Failed" else "accuracy 0.510 < minAccuracy 0.55",
            "datasetDigests": [],
            "planDigest": plan,
        }
        figures = {"dimension": "overall", "pairs": 200, "prompts": 150, "accuracy": 0.64}
        word = verdict(plan, attempt=attempt, artifact=artifact, reward=figures)
        self.kubelet.end(self.api, wait_for(f"a running pod {prefix}…", pod, 120), 0, word)
        return digest

    def make(self, name: str, attempt: int, version: str, gate: str = "Passed") -> str:
        """A version from its training to its verdict."""
        return self.publish(name, attempt, self.train(name, attempt), version, gate)

    def leads_to(self, name: str) -> str | None:
        """The version, by tag, that the stable Service selects."""
        found = self.api.get(SERVICES, self.namespace, name)
        return found["spec"]["selector"][VERSION] if found is not None else None

    def deployments(self, name: str) -> set[str]:
        """The versions, by tag, that have pods."""
        found = self.api.list(DEPLOYMENTS, self.namespace, f"rlhf.dev/reward-model={name}")
        return {each["metadata"]["labels"][VERSION] for each in found}

    def wait(self, what: str, look: Callable[[], Any], seconds: float = 120) -> Any:
        """Look until something true is seen."""
        return wait_for(what, look, seconds)

    def _exit(self, job: str, message: str) -> None:
        (pod,) = pods_of(self.api, self.namespace, job)
        self.kubelet.end(self.api, pod, 0, message)


def tag(digest: str) -> str:
    """A version as labels have it."""
    return digest.removeprefix("sha256:")[:10]


def verdict(plan_digest: str, **fields: Any) -> str:
    """A termination message of rank 0, or of the publish pod."""
    values = {"planDigest": plan_digest, "attempt": 1, "reason": "Succeeded", "message": "done", "step": 8}
    return TerminationMessage.model_validate(values | fields).encode().decode()


@pytest.fixture(scope="module")
def operator(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    with OperatorProcess(tmp_path_factory.mktemp("operator"), bed.kubeconfig, settings=FAST) as process:
        process.wait_ready(120)
        yield process


@pytest.fixture
def world(bed: Bed, operator: OperatorProcess) -> Iterator[World]:
    """A namespace that the operator serves. What it logged of errors fails the test."""
    with (
        operator.sound(),
        closing(Api(bed.kubeconfig)) as api,
        api.namespace("rm") as namespace,
        (kubelet := Judges(api, namespace, NODE)),
    ):
        pairs = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
        meta = {"name": "pairs", "namespace": namespace}
        api.create(CONFIGMAPS, {"metadata": meta, "data": {"pairs.jsonl": pairs}})
        claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        api.create(PVCS, {"metadata": {"name": "models", "namespace": namespace}, "spec": claim})
        yield World(api, namespace, kubelet, bed)

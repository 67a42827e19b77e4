"""A control plane with the operator on it; the test plays scheduler, kubelet, gateway and the jobs that publish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from opkit.api import Api, Object, condition
from opkit.kubelet import Kubelet, Player
from opkit.process import OperatorProcess, wait_for
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import (
    DEPLOYMENTS,
    HTTPROUTES,
    PODS,
    POLICYROLLOUTS,
    RLHFJOBS,
    SERVICES,
)
from testbed.bed import Bed

NODE = "node-a"
REVISION = "rlhf.dev/revision"
FAST = {
    # Its jobs are written by the tests: their own controller would write what it sees over that.
    "KINDS": "PolicyRollout",
    "LEADER_ELECTION": "false",
    "SERVER_IMAGE": "registry.example/server:1",
    "GATEWAY_MIRROR": "supported",
    "BACKOFF_MAX_SECONDS": "2",
}
STEPS = [
    {"name": "shadow", "mirror": {"percent": 20}, "hold": {"minimum": "1s"}},
    {"name": "ten", "weight": 10, "mirror": {"percent": 20}, "hold": {"minimum": "1s"}},
    {"name": "half", "weight": 50, "hold": {"minimum": "1s"}},
]


class ServingKubelet(Kubelet):
    """A kubelet whose serving pods are ready, unless their revision is told not to be."""

    unready: frozenset[str] = frozenset()
    """Revisions whose pods start and never get ready."""

    def _tend(self, api: Api, pod: Object) -> None:
        revision = (pod["metadata"].get("labels") or {}).get(REVISION)
        if revision in self.unready and pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp"):
            return
        super()._tend(api, pod)


class Gateway(Player):
    """Plays a gateway's controller for the routes of one namespace: accepts every generation, or refuses it."""

    resource = HTTPROUTES

    def __init__(self, api: Api, namespace: str) -> None:
        super().__init__(api, namespace)
        self.refuses = ""
        """Why no route is accepted; empty: they are."""
        self.silent = False
        """It says nothing at all."""

    def _tend(self, api: Api, route: Object) -> None:
        if self.silent:
            return
        generation, at = route["metadata"]["generation"], "2026-01-31T12:00:00Z"
        accepted = "False" if self.refuses else "True"
        said = [
            {
                "type": kind,
                "status": accepted if kind == "Accepted" else "True",
                "reason": "NotAllowedByListeners" if kind == "Accepted" and self.refuses else kind,
                "message": self.refuses,
                "observedGeneration": generation,
                "lastTransitionTime": at,
            }
            for kind in ("Accepted", "ResolvedRefs")
        ]
        parents = [
            {"parentRef": parent, "controllerName": "example.com/gateway", "conditions": said}
            for parent in route["spec"]["parentRefs"]
        ]
        if (route.get("status") or {}).get("parents") != parents:
            body = {"status": {"parents": parents}}
            api.patch(HTTPROUTES, self._namespace, route["metadata"]["name"], body, "status")


@dataclass
class World:
    """One namespace, its API client, its kubelet and its gateway."""

    api: Api
    namespace: str
    kubelet: ServingKubelet
    gateway: Gateway
    bed: Bed

    def job(self, name: str, model: str, gate: str = "Passed", at: str = "2026-01-31T12:00:00Z") -> str:
        """An RLHFJob that has published; returns its artifact's digest."""
        spec = {
            "baseModel": {"pvc": {"claimName": "models", "path": "base"}},
            "dataset": {"configMap": {"name": "none", "key": "none"}, "format": "Prompts"},
            "scorers": [{"name": "short", "grader": {"length": {"unit": "Words", "max": 8}}}],
            "rewards": [{"scorer": "short"}],
            "training": {"steps": 8, "batchSize": 16, "microBatchSize": 4},
            "ppo": {"miniBatches": 2},
            "storage": {"claimName": "models"},
            "suspend": True,
        }
        meta = {"name": name, "namespace": self.namespace, "labels": {"line": "assistant"}}
        self.api.create(RLHFJOBS, {"metadata": meta, "spec": spec})
        digest = sha256_of(model.encode())
        artifact = {"ref": f"pvc://models/policies/{model}", "digest": digest, "gate": gate}
        status = {"artifact": artifact, "completionTime": at, "phase": "Complete"}
        self.api.patch(RLHFJOBS, self.namespace, name, {"status": status}, "status")
        return digest

    def apply(self, name: str, **changes: Any) -> Object:
        """Create a PolicyRollout of an artifact that the spec names."""
        spec: dict[str, Any] = {
            "model": {"artifact": artifact("one")},
            "serving": {"replicas": 2, "drainTimeout": "1s"},
            "route": {"parentRefs": [{"name": "public", "namespace": "gateway"}]},
            "strategy": {"steps": STEPS, "bake": "2s", "scaleDownDelay": "1s"},
        }
        return self.api.create(
            POLICYROLLOUTS, {"metadata": {"name": name, "namespace": self.namespace}, "spec": spec | changes}
        )

    def patch(self, name: str, **spec: Any) -> None:
        """Change the spec."""
        self.api.patch(POLICYROLLOUTS, self.namespace, name, {"spec": spec})

    def command(self, name: str, words: str) -> None:
        """Give a command, as kubectl rlhf does."""
        meta = {"annotations": {"rlhf.dev/command": words}}
        self.api.patch(POLICYROLLOUTS, self.namespace, name, {"metadata": meta})

    def until(self, name: str, holds: Callable[[Object], Any], seconds: float = 60) -> Object:
        """The status once the condition holds of it; otherwise what was seen last."""
        seen: Object = {}

        def look() -> Object | None:
            nonlocal seen
            seen = (self.api.get(POLICYROLLOUTS, self.namespace, name) or {}).get("status") or {}
            return seen if holds(seen) else None

        try:
            return wait_for(f"PolicyRollout {name}", look, seconds)
        except TimeoutError as error:
            pods = [(pod["metadata"]["name"], pod.get("status")) for pod in self.api.list(PODS, self.namespace)]
            route = self.route(name)
            raise TimeoutError(
                f"PolicyRollout {name}: not within {seconds} s; status {seen}; route {route}; pods {pods}"
            ) from error

    def until_condition(self, name: str, condition_type: str, status: str, reason: str) -> Object:
        """The status once a condition has this status and reason."""

        def holds(seen: Object) -> bool:
            found = condition(seen, condition_type)
            return (found.get("status"), found.get("reason")) == (status, reason)

        return self.until(name, holds)

    def serves(self, name: str, digest: str, seconds: float = 60) -> Object:
        """The status once stable has this artifact and nothing is under way."""
        return self.until(
            name, lambda seen: variant(seen, "Stable").get("digest") == digest and len(seen["variants"]) == 1, seconds
        )

    def route(self, name: str) -> Object | None:
        """The HTTPRoute."""
        return self.api.get(HTTPROUTES, self.namespace, name)

    def weights(self, name: str) -> dict[str, int]:
        """Weight by revision, as the rule with the weights has them."""
        route = self.route(name)
        found: Counter[str] = Counter()
        for each in route["spec"]["rules"][0]["backendRefs"] if route is not None else ():
            found[each["name"].removeprefix(f"{name}-")] += each["weight"]
        return found

    def deployments(self, name: str) -> dict[str, int]:
        """Pods asked for, by revision."""
        found = self.api.list(DEPLOYMENTS, self.namespace, f"rlhf.dev/rollout={name},rlhf.dev/role=server")
        return {each["metadata"]["labels"][REVISION]: each["spec"]["replicas"] for each in found}

    def asleep(self, name: str, former: str, stable: str) -> None:
        """Wait until the former revision has no pods any more."""
        self.wait(f"the former pods of {name} to go", lambda: self.deployments(name) == {former: 0, stable: 2})

    def crash(self, revision: str) -> None:
        """The containers of a revision are killed for memory again and again."""
        self.kubelet.unready = frozenset({revision})
        killed = {"reason": "OOMKilled", "exitCode": 137}
        container = {"name": "server", "image": "", "imageID": "", "restartCount": 3, "ready": False}
        container |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": killed}}
        body = {"status": {"containerStatuses": [container], "conditions": [{"type": "Ready", "status": "False"}]}}
        for pod in self.pods_of(revision):
            self.api.patch(PODS, self.namespace, pod["metadata"]["name"], body, "status")

    def pods_of(self, revision: str) -> list[Object]:
        """The pods of a revision."""
        return self.api.list(PODS, self.namespace, f"{REVISION}={revision}")

    def leads_to(self, name: str) -> str | None:
        """The revision that the Service for clients inside the cluster selects."""
        found = self.api.get(SERVICES, self.namespace, name)
        selected: str | None = found["spec"]["selector"][REVISION] if found is not None else None
        return selected

    def wait(self, what: str, look: Callable[[], Any], seconds: float = 60) -> Any:
        """Look until something true is seen."""
        return wait_for(what, look, seconds)


def artifact(model: str) -> Object:
    """A model on a claim, by any name."""
    return {"pvc": {"claimName": "models", "path": f"policies/{model}"}, "digest": sha256_of(model.encode())}


def variant(status: Object, name: str) -> Object:
    """A variant of a status; empty when it is not there."""
    found: Object = next((each for each in status.get("variants", ()) if each["name"] == name), {})
    return found


@contextmanager
def opened(bed: Bed, prefix: str) -> Iterator[World]:
    """A namespace of its own, without an operator."""
    with (
        closing(Api(bed.kubeconfig)) as api,
        api.namespace(prefix) as namespace,
        (kubelet := ServingKubelet(api, namespace, NODE)),
        Gateway(api, namespace) as gateway,
    ):
        yield World(api, namespace, kubelet, gateway, bed)


@pytest.fixture(scope="module")
def operator(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    with OperatorProcess(tmp_path_factory.mktemp("operator"), bed.kubeconfig, settings=FAST) as process:
        process.wait_ready(120)
        yield process


@pytest.fixture
def world(bed: Bed, operator: OperatorProcess) -> Iterator[World]:
    """A namespace that the operator serves. What it logged of errors fails the test."""
    with operator.sound(), opened(bed, "pr") as world:
        yield world

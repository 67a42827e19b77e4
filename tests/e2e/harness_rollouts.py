"""PolicyRollouts in a test's namespace: applied by kubectl, followed by status, asked through the real gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.cluster import ClusterError, Object, condition, is_true
from demo.table import variant as variant
from e2e.harness import CLAIM, OPERATOR_PODS, Probe, Space
from e2e.harness_jobs import merge

MODELS = "models"
"""Folder on the claim with the policies."""
START_SECONDS = 600
"""vLLM on a machine that others use takes minutes to start."""
CONTEXT = 512
RESOURCES = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "4Gi"}}
"""What is asked for decides the share of a busy node."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The PolicyRollouts of one namespace."""

    space: Space
    template: Object | None
    """Pod template by which serving pods find vLLM; None where the server's image holds it."""
    judge_template: Object | None
    digests: Mapping[str, str]
    """By name: of the policies on the claim."""

    @property
    def host(self) -> str:
        """The host name by which users of this namespace ask."""
        return f"{self.space.cluster.namespace}.example.com"

    def spec(self, policy: str, **changes: Any) -> dict[str, Any]:
        """Quick steps; `changes` are merged in, None removes a field."""
        spec: dict[str, Any] = {
            "model": self.model(policy),
            "serving": {
                "replicas": 1,
                "args": [f"--max-model-len={CONTEXT}", "--max-num-seqs=16"],
                "drainTimeout": "30s",
                "resources": RESOURCES,
            },
            "route": {"parentRefs": [{"name": "public", "namespace": "gateway"}], "hostnames": [self.host]},
            "strategy": {
                "bake": "20s",
                "scaleDownDelay": "30s",
                "progressDeadline": "15m",
                "steps": [
                    {"name": "shadow", "mirror": {"percent": 100}, "hold": {"minimum": "15s", "samples": 10}},
                    {"name": "half", "weight": 50, "hold": {"minimum": "15s", "samples": 10}},
                ],
            },
            "analysis": {"interval": "5s", "metrics": [{"name": "errors", "preset": {"errorRate": {"max": 0.1}}}]},
        }
        if self.template is not None:
            spec["serving"]["template"] = self.template
        if self.judge_template is not None:
            spec["judge"] = {"sampleRate": 1.0, "resources": RESOURCES, "template": self.judge_template}
        return merge(spec, changes)

    def model(self, policy: str) -> dict[str, Any]:
        """The part of a spec that says which policy is served."""
        place = {"claimName": CLAIM, "path": f"{MODELS}/{policy}"}
        return {"artifact": {"pvc": place, "digest": self.digests[policy]}}

    def apply(self, name: str, spec: Mapping[str, Any]) -> None:
        """`kubectl apply` a PolicyRollout."""
        document = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "PolicyRollout", "metadata": {"name": name}}
        self.space.cluster.apply([document | {"spec": dict(spec)}])

    def get(self, name: str) -> Object:
        """The PolicyRollout as it is now."""
        found = self.space.cluster.get("policyrollout", name)
        if found is None:
            raise ClusterError(f"PolicyRollout {name} does not exist")
        return found

    def until(self, name: str, what: str, probe: Probe, seconds: float = START_SECONDS) -> Object:
        """Poll until `probe` holds of a status that speaks of the spec as it is now; returns the object."""
        last: Object = {}

        def look() -> bool:
            nonlocal last
            last = self.get(name)
            seen = (last.get("status") or {}).get("observedGeneration") == last["metadata"]["generation"]
            return seen and bool(probe(last))

        self.space.cluster.wait(f"{name}: {what}", look, seconds, lambda: self.tell(name), interval_seconds=0.5)
        return last

    def settled(self, name: str, policy: str, seconds: float = START_SECONDS) -> Object:
        """Wait until a policy serves alone; returns the object."""

        def probe(seen: Object) -> bool:
            stable = variant(seen, "Stable")
            return (
                stable.get("digest") == self.digests[policy]
                and stable.get("weight") == 100
                and not variant(seen, "Candidate")
                and is_true(seen, "Ready")
            )

        return self.until(name, f"{policy} serves alone", probe, seconds)

    def step(self, name: str, step: str, seconds: float = START_SECONDS) -> Object:
        """Wait until a step's clock runs."""

        def probe(seen: Object) -> bool:
            at = (seen.get("status") or {}).get("step") or {}
            return at.get("name") == step and bool(at.get("startedAt"))

        return self.until(name, f"step {step}", probe, seconds)

    def rolled_back(self, name: str, seconds: float = START_SECONDS) -> Mapping[str, Any]:
        """Wait until a candidate was rolled back; returns its entry in the history."""
        seen = self.until(name, "rolled back", lambda seen: is_true(seen, "RolledBack"), seconds)
        found: Mapping[str, Any] = seen["status"]["history"][0]
        return found

    def route(self, name: str) -> Object:
        """The HTTPRoute."""
        found = self.space.cluster.get("httproute", name)
        if found is None:
            raise ClusterError(f"HTTPRoute {name} does not exist")
        return found

    def pods(self, name: str, revision: str | None = None) -> list[Object]:
        """Serving pods, of one revision or of all."""
        selector = f"rlhf.dev/rollout={name},rlhf.dev/role=server"
        if revision is not None:
            selector += f",rlhf.dev/revision={revision}"
        return self.space.cluster.objects("pods", selector)

    def tell(self, name: str) -> str:
        """Everything that a person would look at."""
        cluster = self.space.cluster
        parts = []
        for arguments in (
            ("get", "policyrollout", name, "-o", "jsonpath={.status}"),
            ("get", "httproutes", "-o", "yaml"),
            ("get", "pods,deployments,services", "-o", "wide"),
            ("events",),
            ("logs", "-l", OPERATOR_PODS, "--tail=20"),
        ):
            try:
                parts.append(cluster.run(*arguments).decode(errors="replace")[-6000:])
            except ClusterError as error:
                parts.append(str(error))
        parts.append(cluster.tell(f"rlhf.dev/rollout={name}"))
        return "\n---\n".join(parts)


def why(rollout: Mapping[str, Any], kind: str) -> str:
    """Reason and message of a condition."""
    found = condition(dict(rollout), kind) or {}
    return f"{found.get('reason')}: {found.get('message')}"


def upload_policies(space: Space, scratch: Path, names: tuple[str, ...] = ("first", "second")) -> dict[str, str]:
    """Put small policies onto the claim, each with weights of its own; returns their digests."""
    from rlhf_scoring.tree import digest_tree
    from trainer.core.tiny import make_base

    folder = scratch / MODELS
    for seed, name in enumerate(names):
        make_base(folder / name, seed=seed, width=64, positions=CONTEXT)
    space.files.upload(folder, MODELS)
    return {name: digest_tree(folder / name) for name in names}


def patch_model(rollouts: Rollouts, name: str, policy: str) -> None:
    """Ask for another policy, as a person does."""
    body = json.dumps({"spec": {"model": rollouts.model(policy)}})
    rollouts.space.cluster.run("patch", "policyrollout", name, "--type=merge", "-p", body)

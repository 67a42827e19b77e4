"""What manifests are made of in tests: one owner, specs, a source, and jobs that have published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.names import Owner
from rlhf_operator.policyrollout.rendering import Rendering, Texts, image_of
from rlhf_operator.policyrollout.revisions import inputs_key, name_of
from rlhf_operator.policyrollout.views import Source

OWNER = Owner("PolicyRollout", "team", "assistant", "11111111-2222-3333-4444-555555555555")
DEFAULTS = OperatorDefaults(
    trainer_image="registry.example/trainer:1",
    server_image="registry.example/server:1",
    prometheus_url="http://prometheus.monitoring:9090",
)
SOURCE = Source(
    digest=sha256_of(b"model"),
    ref="pvc://models/policies/sha256-abc",
    claim="models",
    folder="policies/sha256-abc",
    job="assistant-7",
    origin="job/assistant-7",
    gate="Passed",
)
TEXTS = Texts(system_prompt="Be brief.", chat_template="{{ messages }}")
GPU: Mapping[str, Any] = {
    "replicas": 2,
    "image": "registry.example/own:2",
    "args": ["--max-model-len=4096"],
    "resources": {"requests": {"cpu": "8"}, "limits": {"nvidia.com/gpu": 2, "memory": "64Gi"}},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "serviceAccountName": "server",
    "priorityClassName": "online",
    "queueName": "serving",
    "env": [{"name": "OMP_NUM_THREADS", "value": "8"}],
    "drainTimeout": "90s",
    "autoscaling": {"min": 2, "max": 8, "target": 4},
    "template": {"spec": {"containers": [{"name": "sidecar", "image": "registry.example/sidecar:1"}]}},
}


def spec_of(**changes: Any) -> PolicyRolloutSpec:
    """A spec with changed fields."""
    spec: dict[str, Any] = {
        "model": {"rlhfJobRef": {"name": "assistant-7"}},
        "route": {"parentRefs": [{"name": "public", "namespace": "gateway"}], "hostnames": ["assistant.example.com"]},
    }
    return PolicyRolloutSpec.model_validate(spec | changes)


def rendering(texts: Texts = Texts(), source: Source = SOURCE, **serving: Any) -> Rendering:  # noqa: B008
    """Everything that one revision is made of."""
    spec = spec_of(serving=serving)
    image = image_of(spec, DEFAULTS)
    revision = name_of(inputs_key(source, spec.serving, texts), image)
    return Rendering(OWNER, revision, source, spec, texts, image, "IfNotPresent")


def job(name: str, artifact: str | None = None, gate: str = "Passed", at: str | None = None, **meta: Any) -> Any:
    """An RLHFJob; with an artifact once it has published."""
    status: dict[str, Any] = {"phase": "Running", "message": "step 3 of 8"}
    if artifact is not None:
        place = "pvc://models/policies" if gate != "Failed" else "workspace://x"
        status = {"artifact": {"ref": f"{place}/{artifact}", "digest": sha256_of(artifact.encode()), "gate": gate}}
        status["completionTime"] = at or "2026-01-31T12:00:00Z"
    return {"metadata": {"name": name, **meta}, "status": status}

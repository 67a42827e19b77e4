"""The spec of the small job that every fault is tried on. Running it: harness.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from e2e.harness import CLAIM, Site

STEPS = 10
EVERY = 2
"""Steps between two checkpoints."""


def ppo_spec(site: Site, **changes: Any) -> dict[str, Any]:
    """PPO with two workers that share the optimizer by ZeRO-2; `changes` are merged in, None removes a field."""
    spec: dict[str, Any] = {
        "baseModel": {"pvc": {"claimName": CLAIM, "path": "input/base"}},
        "dataset": {
            "pvc": {"claimName": CLAIM, "path": "input/prompts.jsonl"},
            "format": "Prompts",
            "columns": {"prompt": "prompt"},
        },
        "scorers": [{"name": "sorry", "grader": {"regex": {"pattern": "sorry"}}}],
        "rewards": [{"scorer": "sorry"}],
        "training": {"steps": STEPS, "batchSize": 64, "microBatchSize": 8, "seed": 17},
        "optimizer": {"learningRate": 1e-3, "schedule": "Constant", "warmupSteps": 0},
        "generation": {"maxPromptLength": 8, "maxResponseLength": 24},
        "ppo": {"epochs": 2, "miniBatches": 2, "kl": {"coefficient": 0.05, "controller": "Fixed"}},
        "compute": {
            "workers": 2,
            "zeroStage": 2,
            # Threads that wait by spinning take the processor from those that work.
            "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
            "resources": {"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"memory": "3Gi"}},
        },
        "storage": {"claimName": CLAIM},
        "output": {"pvc": {"claimName": CLAIM, "path": "artifacts"}},
        "checkpoints": {"everySteps": EVERY, "keep": 2, "gracePeriod": "30s"},
        "timeouts": {"startup": "5m", "progress": "3m"},
        "maxRestarts": 2,
    }
    if site.template is not None:
        spec["compute"]["template"] = site.template
    return merge(spec, changes)


def one_worker(site: Site, **changes: Any) -> dict[str, Any]:
    """The same by one worker alone: half the processes, where the number of workers is not what is tested."""
    return merge(ppo_spec(site, compute={"workers": 1, "zeroStage": 0}), changes)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with changes merged in deeply; None removes a field."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged

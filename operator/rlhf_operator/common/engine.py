"""What every pod with vLLM in it shares: environment, device count, and where an artifact lies. Builds no pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_operator.api.pods import PodFields, Resources

from .podsecurity import scratch_env

OFFLINE_ENV: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
CPU_ENV: Mapping[str, str] = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def gpus(resources: Resources | None) -> int:
    """Return how many devices the container asks for, whoever makes them."""
    named = {} if resources is None else {**resources.requests, **resources.limits}
    counts = [str(amount) for name, amount in named.items() if name.endswith("/gpu")]
    return max((int(count) for count in counts if count.isdigit()), default=0)


def environment(ours: Mapping[str, str], fields: PodFields) -> list[dict[str, Any]]:
    """Return variables, each once: the user's win over ours, except for those that begin with RLHF_."""
    theirs = {each.name: each.dump() for each in fields.env if not each.name.startswith("RLHF_")}
    scratch = {each["name"]: each for each in scratch_env()}
    named: dict[str, Any] = {name: {"name": name, "value": value} for name, value in ours.items()} | scratch
    # An empty value is stored without the field: to ask for it would be a drift that no write mends.
    return [{key: part for key, part in each.items() if key != "value" or part} for each in (named | theirs).values()]

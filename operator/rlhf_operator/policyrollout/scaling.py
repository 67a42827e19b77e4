"""KEDA's ScaledObject of a revision: pods by waiting requests, or by how full the cache is. Pure."""

from __future__ import annotations

from typing import Any

from rlhf_operator.api import signals
from rlhf_operator.api.pods import Autoscaling, AutoscalingMetric
from rlhf_operator.common.names import Owner, metadata

from .rendering import labels_of, revision_name

SOURCES = {
    AutoscalingMetric.QUEUE_DEPTH: "vllm:num_requests_waiting",
    AutoscalingMetric.KV_CACHE_USAGE: "vllm:kv_cache_usage_perc",
}


def scaled_object(
    owner: Owner, revision: str, scaling: Autoscaling, bounds: tuple[int, int], prometheus: str
) -> dict[str, Any]:
    """Return the ScaledObject of a revision. bounds: fewest and most pods for now."""
    whose = (
        f'{signals.SHADOWS_IN_FLIGHT}{{rlhf_namespace="{owner.namespace}",rlhf_rollout="{owner.name}",'
        f'revision="{revision}"}}'
    )
    # Joined by what every Prometheus labels a target with, so that no relabelling has to be known.
    query = f"sum({SOURCES[scaling.metric]} * on (job, instance) group_left () group by (job, instance) ({whose}))"
    name = revision_name(owner.name, revision)
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {"serverAddress": prometheus, "query": query, "threshold": f"{scaling.target:g}"},
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(owner, name, labels_of(owner, revision)),
        "spec": {
            "scaleTargetRef": {"name": name},
            "minReplicaCount": bounds[0],
            "maxReplicaCount": bounds[1],
            "triggers": [trigger],
        },
    }

"""What an operator and the Prometheus that it asks have used up, read twice and compared."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from opkit.process import OperatorProcess
from opkit.prometheus import RunningPrometheus


@dataclass(frozen=True)
class Meter:
    """What the operator has used so far."""

    at: float
    cpu_seconds: float
    calls: Mapping[str, int]
    queries: float
    reconciles: float

    @classmethod
    def read(cls, operator: OperatorProcess, server: RunningPrometheus) -> Meter:
        """Read them now."""
        return cls(
            at=time.monotonic(),
            cpu_seconds=operator.cpu_seconds(),
            calls=operator.calls(),
            queries=_queries(server),
            reconciles=operator.metric("rlhf_operator_reconcile_seconds_count"),
        )


@dataclass(frozen=True)
class Spent:
    """What it has used between two readings."""

    seconds: float
    cpu_seconds: float
    calls: Mapping[str, int]
    queries: float
    reconciles: float

    @classmethod
    def between(cls, before: Meter, after: Meter) -> Spent:
        """Their difference."""
        return cls(
            seconds=after.at - before.at,
            cpu_seconds=after.cpu_seconds - before.cpu_seconds,
            calls={verb: count - before.calls.get(verb, 0) for verb, count in after.calls.items()},
            queries=after.queries - before.queries,
            reconciles=after.reconciles - before.reconciles,
        )

    def count(self, *verbs: str) -> int:
        """Requests to the API server by these verbs."""
        return sum(self.calls.get(verb, 0) for verb in verbs)


def by_resource(operator: OperatorProcess) -> dict[str, float]:
    """Requests to the API server by verb and resource."""
    found: dict[str, float] = {}
    for each in operator.samples():
        if each.name == "rlhf_operator_api_requests_total":
            key = f"{each.labels['verb']} {each.labels['resource']} {each.labels['code']}"
            found[key] = found.get(key, 0) + each.value
    return found


def _queries(server: RunningPrometheus) -> float:
    """Instant queries that Prometheus has answered."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "prometheus_http_requests_total" and sample.labels.get("handler") == "/api/v1/query"
    )

"""The operator's own Prometheus metrics. What a metric means is in its help text; nothing here decides anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rlhf_operator.kube.reflector import Reflector, WatchState
from rlhf_operator.kube.store import Store

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and histograms of one process, with a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Histogram(
            "rlhf_operator_reconcile_seconds",
            "Seconds per reconcile, observation and writes included.",
            ("kind", "outcome"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.calls = Counter(
            "rlhf_operator_api_requests",
            "Requests to the API server by verb, resource and answer (0: none came).",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "rlhf_operator_api_request_seconds",
            "Seconds per request to the API server; of a watch the time until it was open.",
            ("verb",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.leader = Gauge(
            "rlhf_operator_leader", "1 while this process holds the Lease or needs none.", registry=self.registry
        )
        self.query_seconds = Histogram(
            "rlhf_operator_prometheus_query_seconds",
            "Seconds per query of an analysis, retries included, by what it came back with.",
            ("outcome",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.events_dropped = Counter(
            "rlhf_operator_events_dropped", "Events that could not be written.", registry=self.registry
        )

    def observe_call(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Count one request."""
        self.calls.labels(verb, resource, str(code)).inc()
        self.call_seconds.labels(verb).observe(seconds)

    def observe_query(self, outcome: str, seconds: float) -> None:
        """Count one query of an analysis."""
        self.query_seconds.labels(outcome).observe(seconds)

    def text(self) -> bytes:
        """The exposition of all metrics."""
        return generate_latest(self.registry)


class StateCollector(Collector):
    """Gauges that are read when they are asked for, rather than kept."""

    def __init__(self) -> None:
        self.reflectors: list[Reflector] = []
        self.primaries: list[Store] = []
        self.depth: Callable[[], int] = int
        self.delayed: Callable[[], int] = int
        self.working: Callable[[], int] = int

    def collect(self) -> Iterable[Metric]:
        """Queue, watches, objects."""
        yield _plain("rlhf_operator_queue_depth", "Keys that wait for a worker.", self.depth())
        yield _plain("rlhf_operator_queue_delayed", "Keys that are due later.", self.delayed())
        yield _plain("rlhf_operator_queue_working", "Keys in work.", self.working())
        age = GaugeMetricFamily(
            "rlhf_operator_watch_age_seconds",
            "Seconds since the server last said anything on this watch.",
            labels=("resource", "namespace"),
        )
        state = GaugeMetricFamily(
            "rlhf_operator_watch_state",
            "1 for the state that this watch is in.",
            labels=("resource", "namespace", "state"),
        )
        for reflector in self.reflectors:
            where = (reflector.resource.qualified, reflector.namespace or "")
            age.add_metric(where, reflector.age_seconds)
            for each in WatchState:
                state.add_metric((*where, each.value), float(reflector.state is each))
        yield age
        yield state
        objects = GaugeMetricFamily("rlhf_operator_objects", "Objects of our kinds by phase.", labels=("kind", "phase"))
        for store in self.primaries:
            for phase, count in sorted(store.categories.items()):
                objects.add_metric((store.resource.kind, phase or "New"), count)
        yield objects


def _plain(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)

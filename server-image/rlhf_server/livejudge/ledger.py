"""What /metrics shows: series that begin at 0 and count only once Prometheus could see that 0. No judgement lives here.

`increase()` and `rate()` see a difference between two scrapes. A series that first appears with the value 1 has none,
and the first violation of a revision, the one that matters, would never be seen. So a new series is shown as 0 once,
and what came for it until then is added after that scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True)
class Family:
    """One counter: its name as Prometheus has it, help and labels."""

    name: str
    help: str
    labels: Sequence[str]
    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    pending: dict[tuple[str, ...], float] = field(default_factory=dict)
    """What is to be added to series that no scrape has shown yet."""


class Ledger(Collector):
    """Counts by family and labels. Not thread-safe: one event loop owns it."""

    def __init__(self, families: Sequence[Family], *, series: int) -> None:
        """series: most time series; a count for a further one is left out, and counted as such."""
        self._families = {family.name: family for family in families}
        self._limit = series
        self._series = 0
        self.left_out = 0

    def begin(self, name: str, labels: Mapping[str, str]) -> bool:
        """Show a series as 0 from the next scrape on; whether it is there."""
        family = self._families[name]
        key = tuple(labels[label] for label in family.labels)
        if key in family.values:
            return True
        if self._series >= self._limit:
            return False
        self._series += 1
        family.values[key] = 0.0
        family.pending[key] = 0.0
        return True

    def add(self, name: str, labels: Mapping[str, str], amount: float = 1.0) -> None:
        """Count; a series that was never shown is shown as 0 first."""
        if not self.begin(name, labels):
            self.left_out += 1
            return
        family = self._families[name]
        key = tuple(labels[label] for label in family.labels)
        (family.pending if key in family.pending else family.values)[key] += amount

    def value(self, name: str, labels: Mapping[str, str]) -> float:
        """All that was counted, shown or not."""
        family = self._families[name]
        key = tuple(labels[label] for label in family.labels)
        return family.values.get(key, 0.0) + family.pending.get(key, 0.0)

    def collect(self) -> Iterator[Metric]:
        """Every family; what waited for this scrape is shown from the next one on."""
        for family in self._families.values():
            shown = CounterMetricFamily(family.name, family.help, labels=family.labels)
            for key, value in family.values.items():
                shown.add_metric(key, value)
            for key, amount in family.pending.items():
                family.values[key] += amount
            family.pending.clear()
            yield shown

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not count as a scrape."""
        return iter(())


def expose(*collectors: Collector) -> bytes:
    """The text format of all of them."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry)

"""Prometheus sees the first event of every series."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from rlhf_server.livejudge.ledger import Family, Ledger, expose


def ledger(series: int = 10) -> Ledger:
    return Ledger([Family("events_total", "Events", ("revision", "outcome"))], series=series)


def scrape(counts: Ledger) -> dict[str, float]:
    families = text_string_to_metric_families(expose(counts).decode())
    return {sample.labels["outcome"]: sample.value for family in families for sample in family.samples}


def labels(outcome: str) -> dict[str, str]:
    return {"revision": "r", "outcome": outcome}


def test_a_series_is_zero_before_it_counts() -> None:
    counts = ledger()
    counts.add("events_total", labels("win"), 3)
    assert scrape(counts) == {"win": 0.0}, "increase() needs a 0 to count from"
    assert scrape(counts) == {"win": 3.0}
    counts.add("events_total", labels("win"))
    assert scrape(counts) == {"win": 4.0}, "and no delay from then on"


def test_a_series_that_was_announced_counts_at_once() -> None:
    counts = ledger()
    counts.begin("events_total", labels("win"))
    assert scrape(counts) == {"win": 0.0}
    counts.add("events_total", labels("win"))
    counts.begin("events_total", labels("win"))
    assert scrape(counts) == {"win": 1.0}


def test_series_are_bounded_and_what_is_left_out_is_counted() -> None:
    counts = ledger(series=2)
    for outcome in ("a", "b", "c", "c"):
        counts.add("events_total", labels(outcome))
    scrape(counts)
    assert scrape(counts) == {"a": 1.0, "b": 1.0}
    assert counts.left_out == 2

"""A real Prometheus sees the first pair and the first violation of a revision, by the operator's own queries."""

from __future__ import annotations

from pathlib import Path

from judgekit.live import LiveProcess, write
from judgekit.samples import CANDIDATE, NOT_BAD, SHORTER, STABLE, pair, plan, scorer
from opkit.process import wait_for
from opkit.prometheus import prometheus
from rlhf_operator.api.rolloutanalysis import Metric
from rlhf_operator.policyrollout.presets import Scope, queries, signal_of

SCOPE = Scope("ns", "chat", STABLE, CANDIDATE, window=60, candidate_live=False)
METRICS = [
    Metric.model_validate({"name": "wins", "preset": {"rewardWinRate": {"scorer": {"grader": SHORTER}, "min": 0.4}}}),
    Metric.model_validate(
        {"name": "safe", "preset": {"safetyViolationRate": {"scorer": {"grader": NOT_BAD}, "max": 0.1}}}
    ),
]


def asked(metric: Metric) -> dict[str, str]:
    signal = signal_of(metric)
    assert signal is not None
    return queries(signal, SCOPE, None)


def test_prometheus_sees_the_first_events_of_a_revision(tmp_path: Path) -> None:
    write(tmp_path, plan(scorer("wins", "WinRate", SHORTER), scorer("safe", "Violation", NOT_BAD, threshold=0.5)))
    with LiveProcess(tmp_path, tmp_path / "judge.log") as judge:
        judge.wait_ready()
        # All that ever happens, before Prometheus has heard of this judge.
        judge.live.send(pair("a", "fine and long", "bad"))
        with prometheus(tmp_path / "prometheus", judge.port) as server:
            wins, safe = (asked(metric) for metric in METRICS)
            for text in (wins["candidate/events"], wins["candidate/n"], safe["candidate/events"], safe["candidate/n"]):
                wait_for(text, lambda text=text: server.holds(f"({text}) > 0.9"), 30)  # type: ignore[misc]
                assert not server.holds(f"({text}) > 1.5"), "one event is one event"
            assert server.holds(f"({safe['stable/n']}) > 0.9")
            assert server.holds(f"({safe['stable/events']}) < 0.1")

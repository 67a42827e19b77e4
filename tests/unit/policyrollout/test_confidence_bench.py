"""The benchmark decides by the operator's own function: what it skips can't be decided."""

from __future__ import annotations

import numpy as np
import pytest

from bench.traffic_sim import LOOKS, NEVER, Cell, FixedThreshold, Traffic, anytime_valid, harmed, simulate
from rlhf_operator.policyrollout.confidence import Count, Verdict, ratio_verdict


@pytest.mark.parametrize(("base", "multiple"), [(0.01, 5.0), (0.05, 2.0), (0.4, 1.5)])
def test_skipped_looks_could_not_have_been_decided(base: float, multiple: float) -> None:
    looks, alpha = 120, 0.05
    whole = simulate(Cell(base, multiple, 0.2, 2.0), 4, np.random.default_rng(1))
    traffic = Traffic(*(part[:, :looks] for part in vars(whole).values()))
    expected = np.full(4, NEVER)
    for run in range(4):
        sums = [np.cumsum(part[run]) for part in vars(traffic).values()]
        for look, (n, events, other_n, other_events) in enumerate(zip(*sums, strict=True)):
            candidate, stable = Count(float(events), float(n)), Count(float(other_events), float(other_n))
            if ratio_verdict(candidate, stable, 1.25, alpha) is Verdict.ABOVE:
                expected[run] = look
                break
    assert (expected < NEVER).any()
    assert anytime_valid(traffic, 1.25, alpha).tolist() == expected.tolist()


def test_a_fixed_threshold_counts_failed_windows_and_skips_empty_ones() -> None:
    requests, errors = np.full((1, LOOKS), 10.0), np.zeros((1, LOOKS))
    errors[0, [0, 1, 6, 20]] = 5.0
    requests[0, 8:12] = 0.0
    traffic = Traffic(requests, errors, requests, errors)
    rule = FixedThreshold("rule", window_seconds=60, limit=0.1, failures=3)
    assert rule.rolled_back(traffic).tolist() == [21]
    assert FixedThreshold("rule", 60, 0.1, 4).rolled_back(traffic).tolist() == [NEVER]
    cell = Cell(0.01, 2.0, 0.05, 20.0)
    assert harmed(cell, traffic, np.array([21])) == pytest.approx(0.01 * 180)
    assert harmed(cell, traffic, np.array([NEVER])) == pytest.approx(0.01 * requests.sum())

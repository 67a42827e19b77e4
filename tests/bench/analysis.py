"""How soon and how rightly a bad candidate is rolled back: the operator's test beside fixed thresholds, simulated.

`errorRate: {maxRatio: 1.25}` at confidence 0.99, one metric and one step, at every look of 30 s for 24 h, against the
thresholds of the peers' documentation and against the same rules with the limit that an oracle would have set.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from bench.harness import Report, Row
from bench.traffic_sim import LOOK_SECONDS, NEVER, Cell, FixedThreshold, anytime_valid, harmed, simulate
from rlhf_operator.policyrollout.confidence import alpha_of

MAX_RATIO = 1.25
"""A quarter more errors than stable is tolerated: what a user who wants 1.5 x found and noise ignored would write."""
CONFIDENCE = 0.99
ALPHA = alpha_of(CONFIDENCE, metrics=1, steps=1)

BASES = (0.001, 0.003, 0.01, 0.03, 0.05)
MULTIPLES = (1.5, 2.0, 5.0)
SHARES = (0.01, 0.05, 0.25)
RPS = (1.0, 20.0, 100.0)
HEALTHY_RUNS, BAD_RUNS, HEADLINE_RUNS = 500, 100, 1000
HEADLINE = Cell(0.01, 2.0, 0.05, 20.0)

ARGO = FixedThreshold("argo", window_seconds=300, limit=0.05, failures=4)
"""Argo Rollouts, docs/features/analysis.md, "Background Analysis": successCondition result >= 0.95 of 5xx over 5m,
interval 5m, failureLimit 3. The controller fails the run when more than failureLimit measurements failed
(analysis/analysis.go), which is the fourth. Adapted in its favour: the exact rate of the 5 minutes instead of `irate`
of the last two scrapes, and no data is no failure."""
FLAGGER = FixedThreshold("flagger", window_seconds=60, limit=0.01, failures=10)
"""Flagger, docs/gitbook/usage/how-it-works.md: request-success-rate min 99 over 1m, interval 1m, threshold 10 failed
checks in all. Adapted in its favour: no data is no failed check; the candidate stays at its weight as long as ours."""
PEERS = (ARGO, FLAGGER)
"""Both documented and tuned. Tuned: the window and the number of failures as documented, but for each cell the lowest
limit that rolls back at most 1 % of healthy candidates of that very cell: more than a user could know."""
TUNED_FALSE_ROLLBACKS = 0.01
OURS = "ours"
DOCUMENTED = tuple(peer.key for peer in PEERS)
TUNED = tuple(f"{peer.key}Tuned" for peer in PEERS)
RULES = (OURS, *DOCUMENTED, *TUNED)


@dataclass(frozen=True)
class Outcome:
    """What a rule did in one cell."""

    rolled_back: float
    """Share of the runs."""
    harmed: float
    """Mean requests harmed per run."""
    median_seconds: float
    """Median time until the rollback; a run without counts as 24 h."""


Outcomes = dict[str, Outcome]


def run() -> Report:
    """Every cell."""
    generator = np.random.default_rng(20260101)
    healthy: dict[Cell, Outcomes] = {}
    bad: dict[Cell, Outcomes] = {}
    for base, share, rps in itertools.product(BASES, SHARES, RPS):
        cell = Cell(base, 1.0, share, rps)
        traffic = simulate(cell, HEALTHY_RUNS, generator)
        tuned = [peer.tuned(traffic, TUNED_FALSE_ROLLBACKS) for peer in PEERS]
        rules = dict(zip(DOCUMENTED + TUNED, (*PEERS, *tuned), strict=True))
        healthy[cell] = _outcomes(cell, HEALTHY_RUNS, rules, generator)
        for multiple in MULTIPLES:
            worse = replace(cell, multiple=multiple)
            runs = HEADLINE_RUNS if worse == HEADLINE else BAD_RUNS
            bad[worse] = _outcomes(worse, runs, rules, generator)
    return _report(healthy, bad, _at_the_limit(generator), _of_many(generator))


def _outcomes(cell: Cell, runs: int, rules: Mapping[str, FixedThreshold], generator: np.random.Generator) -> Outcomes:
    traffic = simulate(cell, runs, generator)
    looks = {OURS: anytime_valid(traffic, MAX_RATIO, ALPHA)}
    looks |= {name: rule.rolled_back(traffic) for name, rule in rules.items()}
    return {
        name: Outcome(
            float(np.mean(found < NEVER)),
            float(np.mean(harmed(cell, traffic, found))),
            float(np.median(np.minimum(found + 1, NEVER)) * LOOK_SECONDS),
        )
        for name, found in looks.items()
    }


def _at_the_limit(generator: np.random.Generator) -> float:
    """Worst share of candidates at exactly the tolerated multiple that is rolled back."""
    cells = (Cell(0.01, MAX_RATIO, 0.05, 20.0), Cell(0.05, MAX_RATIO, 0.25, 20.0))
    return max(
        float(np.mean(anytime_valid(simulate(cell, HEADLINE_RUNS, generator), MAX_RATIO, ALPHA) < NEVER))
        for cell in cells
    )


def _of_many(generator: np.random.Generator) -> float:
    """The headline where the metric is one of eight and the step one of four."""
    alpha = alpha_of(CONFIDENCE, metrics=8, steps=4)
    return float(np.mean(anytime_valid(simulate(HEADLINE, HEADLINE_RUNS, generator), MAX_RATIO, alpha) < NEVER))


def _report(healthy: Mapping[Cell, Outcomes], bad: Mapping[Cell, Outcomes], at_limit: float, of_many: float) -> Report:
    totals = {name: sum(outcome[name].harmed for outcome in bad.values()) for name in RULES}
    peers = [name for name in RULES if name != OURS]
    headline = bad[HEADLINE]
    rows = [
        Row("false_rollback_rate", "rolled back at 1x, worst cell", _worst(healthy, OURS), "goal: at most 0.01"),
        Row("caught_rate_2x", "2x at base 1 %, 5 % of 20 rps: caught in 24 h", headline[OURS].rolled_back, "0.99"),
        Row("harmed_requests_ratio", "requests harmed / the best fixed threshold's", _ratio(totals, peers), "under 1"),
        Row("false_rollback_rate_at_limit", f"rolled back at exactly {MAX_RATIO} x, worst", at_limit, "at most 0.01"),
        Row("caught_rate_2x_of_many", "caught_rate_2x where 8 metrics and 4 steps share the alpha", of_many),
        Row("seconds_to_rollback_2x", "same cell as caught_rate_2x: median seconds", headline[OURS].median_seconds),
        Row("harmed_requests_2x", "same cell: requests harmed", headline[OURS].harmed),
        Row("harmed_requests_ratio_2x", "same cell: / the best tuned one's", _ratio(_harmed(headline), TUNED)),
    ]
    for name in RULES:
        rows += [
            Row(f"{name}.false_rollback_rate", f"{name}: rolled back at 1x, worst cell", _worst(healthy, name)),
            Row(f"{name}.false_rollback_rate_mean", f"{name}: the same, mean of cells", _mean(healthy, name)),
            *(
                Row(f"{name}.caught_rate_{multiple:g}x", f"{name}: caught at {multiple:g}x, mean of cells", found)
                for multiple in MULTIPLES
                for found in [_mean({cell: bad[cell] for cell in bad if cell.multiple == multiple}, name)]
            ),
            Row(f"{name}.harmed_requests", f"{name}: requests harmed, sum of the means of all cells", totals[name]),
        ]
    return Report(rows, notes=_notes(healthy, bad), details={"cells": _cells(healthy) + _cells(bad)})


def _notes(healthy: Mapping[Cell, Outcomes], bad: Mapping[Cell, Outcomes]) -> list[str]:
    fewer = [cell for cell in bad if min(bad[cell][name].harmed for name in DOCUMENTED) < bad[cell][OURS].harmed]
    sound = [cell for cell in fewer if _usable(healthy[replace(cell, multiple=1.0)], bad[cell])]
    tuned = [cell for cell in bad if min(bad[cell][name].harmed for name in TUNED) < bad[cell][OURS].harmed]
    slight = sum(cell.multiple == MULTIPLES[0] for cell in tuned)
    return [
        f"ours: errorRate maxRatio {MAX_RATIO}, confidence {CONFIDENCE}, one metric, one step; looks every 30 s, 24 h",
        f"{len(healthy)} cells at 1x of {HEALTHY_RUNS} runs, {len(bad)} at {MULTIPLES} of {BAD_RUNS}",
        "harmed: requests to the candidate until its rollback x (its error rate - stable's); 24 h of them without one",
        "harmed_requests_ratio: sums over all bad cells, ours / the lowest of the four rules that follow",
        f"argo: {ARGO.failures}th window of 5 m under 0.95; flagger: {FLAGGER.failures}th of 1 m under 0.99",
        "…Tuned: each cell's limit chosen by an oracle for 1 % false rollbacks in that very cell",
        f"a documented rule harmed fewer in {len(fewer)} of {len(bad)} cells, in {len(fewer) - len(sound)} of them by "
        "rolling back more than 1 % of healthy candidates too",
        f"a tuned rule harmed fewer in {len(tuned)}, {slight} of them at {MULTIPLES[0]}x",
    ]


def _usable(healthy: Outcomes, bad: Outcomes) -> bool:
    """A documented rule both harms fewer than ours and leaves healthy candidates alone."""
    return any(
        bad[name].harmed < bad[OURS].harmed and healthy[name].rolled_back <= TUNED_FALSE_ROLLBACKS
        for name in DOCUMENTED
    )


def _harmed(outcomes: Outcomes) -> dict[str, float]:
    return {name: outcome.harmed for name, outcome in outcomes.items()}


def _ratio(harmed_requests: Mapping[str, float], others: Sequence[str]) -> float:
    return harmed_requests[OURS] / min(harmed_requests[name] for name in others)


def _worst(cells: Mapping[Cell, Outcomes], name: str) -> float:
    return max(outcomes[name].rolled_back for outcomes in cells.values())


def _mean(cells: Mapping[Cell, Outcomes], name: str) -> float:
    return float(np.mean([outcomes[name].rolled_back for outcomes in cells.values()]))


def _cells(cells: Mapping[Cell, Outcomes]) -> list[dict[str, object]]:
    return [
        {**asdict(cell), "rules": {name: asdict(outcome) for name, outcome in outcomes.items()}}
        for cell, outcomes in cells.items()
    ]

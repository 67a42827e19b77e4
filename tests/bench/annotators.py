"""Simulated annotators of known error rates: how many true labels each way of aggregating recovers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.harness import Report, Row
from rlhf_trainer.preferences.reliability import LABELS, reliability_weighted

REPEATS = 5
Vote = float | None
Votes = list[tuple[Vote, ...]]


@dataclass(frozen=True)
class Crowd:
    """Annotators who err independently, each at a rate of their own."""

    key: str
    comparisons: int
    errors: tuple[float, ...]
    ties: float = 0.0
    """Share of the comparisons that are true ties."""
    coverage: float = 1.0
    """Share of the comparisons that an annotator judges."""

    @property
    def label(self) -> str:
        """What it is, for the table."""
        more = f", {self.ties:.0%} ties" if self.ties else ""
        more += f", each judges {self.coverage:.0%}" if self.coverage < 1 else ""
        return f"errors {', '.join(f'{error:g}' for error in self.errors)}; {self.comparisons} rows{more}"


CROWDS = (
    Crowd("fiveMixed", 300, (0.05, 0.1, 0.3, 0.4, 0.45)),
    Crowd("fiveMixedTies", 300, (0.05, 0.1, 0.3, 0.4, 0.45), ties=0.1),
    Crowd("adversary", 300, (0.1, 0.2, 0.2, 0.3, 0.8)),
    Crowd("eightSparse", 300, (0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.45, 0.5), ties=0.1, coverage=0.5),
    Crowd("threeMixed", 300, (0.05, 0.3, 0.45)),
    Crowd("threeAlike", 300, (0.2, 0.2, 0.2)),
    Crowd("few", 50, (0.05, 0.1, 0.3, 0.4, 0.45)),
)
"""Fixed before the first run. The last three are those in which little can be learnt of who errs."""


def simulate(crowd: Crowd, seed: int) -> tuple[list[float], Votes]:
    """True verdicts and votes; every comparison has at least one vote."""
    generator = np.random.default_rng(seed)
    truth, votes = [], []
    while len(truth) < crowd.comparisons:
        value = 0.5 if generator.random() < crowd.ties else float(generator.integers(0, 2))
        row = tuple(
            _vote(value, error, crowd.ties > 0, generator) if generator.random() < crowd.coverage else None
            for error in crowd.errors
        )
        if any(vote is not None for vote in row):
            truth.append(value)
            votes.append(row)
    return truth, votes


def run() -> Report:
    """Share of recovered labels by crowd and method, mean over repeats."""
    rows = []
    for crowd in CROWDS:
        samples = [simulate(crowd, seed) for seed in range(REPEATS)]
        for name, method in METHODS.items():
            found = [recovered(truth, method(votes)) for truth, votes in samples]
            rows.append(Row(f"{crowd.key}.{name}", f"{crowd.label}: {name}", float(np.mean(found))))
    return Report(rows, notes=[f"share of true labels recovered, mean of {REPEATS} simulated data sets each"])


def recovered(truth: Sequence[float], found: Sequence[float]) -> float:
    """Share of the verdicts that are the true ones."""
    return float(np.mean(np.array(truth) == np.array(found)))


def majority(votes: Votes) -> list[float]:
    """The most frequent verdict; of two as frequent ones the first in the order first, second, tie."""
    return [max(LABELS, key=lambda label: sum(vote == label for vote in row)) for row in votes]


def weighted(votes: Votes) -> list[float]:
    """What the operator uses for ReliabilityWeighted."""
    chances = reliability_weighted(votes, [None] * len(votes)).chances
    return [LABELS[int(np.argmax(chance))] for chance in chances]


def plain(votes: Votes) -> list[float]:
    """The library's model as it is, without beforehand trust and without turning comparisons round."""
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    table = pd.DataFrame(
        [(task, who, vote) for task, row in enumerate(votes) for who, vote in enumerate(row) if vote is not None],
        columns=["task", "worker", "label"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = DawidSkene(n_iter=100).fit_predict(table)
    return [float(labels[task]) for task in range(len(votes))]


METHODS: dict[str, Callable[[Votes], list[float]]] = {
    "majority": majority,
    "reliabilityWeighted": weighted,
    "dawidSkenePlain": plain,
}


def _vote(truth: float, error: float, ties: bool, generator: np.random.Generator) -> float:
    if generator.random() >= error:
        return truth
    others = [label for label in LABELS if label != truth and (ties or label != 0.5)]
    return others[int(generator.integers(0, len(others)))]

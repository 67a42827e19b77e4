"""How far each annotator can be trusted, inferred from all votes together (Dawid & Skene 1979, through crowd-kit)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

LABELS = (1.0, 0.0, 0.5)
"""First, second, tie."""
ITERATIONS = 100
TRUST = 2
"""Votes given to everyone beforehand in each right cell of the confusion matrix, against one in each wrong cell: an
annotator of three flawless rows is not infallible, and of two opposite readings of the votes the one is found in which
most people mean what they say."""

Vote = float | None


@dataclass(frozen=True, slots=True)
class Weighted:
    """What the model concludes from all votes."""

    chances: list[tuple[float, float, float]]
    """By comparison: probabilities that the first is better, the second is, and neither."""
    reliability: list[float | None]
    """By annotator: expected share of right verdicts; None without a vote."""


def reliability_weighted(votes: Sequence[Sequence[Vote]], gold: Sequence[Vote]) -> Weighted:
    """Infer who errs how often, and from it what is true. Gold verdicts are certain.

    votes: [comparisons][annotators], every comparison with at least one vote or a gold verdict. Each comparison stands
    in twice, the second time turned round: which response came first is no property of the truth.
    """
    import pandas as pd
    from crowdkit.aggregation.classification.dawid_skene import DawidSkene

    cast = [(task, who, vote) for task, row in enumerate(votes) for who, vote in enumerate(row) if vote is not None]
    annotators = sorted({who for _, who, _ in cast})
    if not cast:
        return Weighted([_certain(each) for each in gold], [None for _ in (votes[0] if votes else ())])
    labels = [label for label in LABELS if label != 0.5 or any(vote == 0.5 for _, _, vote in cast) or 0.5 in gold]
    count = len(votes)
    turned = [(task + count, who, 1.0 - vote) for task, who, vote in cast]
    beforehand, known = _beforehand(annotators, labels, start=2 * count)
    for task, verdict in enumerate(gold):
        if verdict is not None:
            known[task], known[task + count] = verdict, 1.0 - verdict
    table = pd.DataFrame([*cast, *turned, *beforehand], columns=["task", "worker", "label"])
    truth = pd.Series(known, dtype=float)
    with warnings.catch_warnings():
        # It uses what pandas has deprecated; nothing that we could mend.
        warnings.simplefilter("ignore")
        found = DawidSkene(n_iter=ITERATIONS).fit_predict_proba(table, truth)
    found = found.reindex(index=range(count), columns=list(LABELS), fill_value=0.0)
    chances = [_certain(vote) for vote in gold]
    table_of_chances = found.to_numpy(dtype=float)
    for task in {task for task, _, _ in cast}:
        first, second, tie = table_of_chances[task].tolist()
        chances[task] = (first, second, tie)
    return Weighted(chances, _reliability(votes, chances))


def _beforehand(
    annotators: list[int], labels: list[float], start: int
) -> tuple[list[tuple[int, int, float]], dict[int, float]]:
    """Imagined comparisons of known outcome, on which all vote alike: the prior of the confusion matrices."""
    rows: list[tuple[int, int, float]] = []
    known: dict[int, float] = {}
    task = start
    for truth in labels:
        for vote in labels:
            for _ in range(TRUST if vote == truth else 1):
                known[task] = truth
                rows.extend((task, who, vote) for who in annotators)
                task += 1
    return rows, known


def _certain(vote: Vote) -> tuple[float, float, float]:
    if vote is None:
        return (1 / 3, 1 / 3, 1 / 3)
    return (float(vote == 1.0), float(vote == 0.0), float(vote == 0.5))


def _reliability(votes: Sequence[Sequence[Vote]], chances: Sequence[tuple[float, float, float]]) -> list[float | None]:
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    for row, chance in zip(votes, chances, strict=True):
        for who, vote in enumerate(row):
            if vote is not None:
                sums[who] = sums.get(who, 0.0) + chance[LABELS.index(vote)]
                counts[who] = counts.get(who, 0) + 1
    return [sums[who] / counts[who] if who in counts else None for who in range(len(votes[0]) if votes else 0)]

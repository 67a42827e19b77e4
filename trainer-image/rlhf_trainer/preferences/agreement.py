"""How far annotators agree with each other and with gold rows. The coefficients are libraries' own."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.comparison import wilson

from .comparisons import Comparison
from .datareport import AgreementFigures, AnnotatorFigures, Interval, PairAgreement

RESAMPLES = 2_000
_CATEGORIES = (1.0, 0.0, 0.5)
Table = NDArray[np.float64]
"""[annotators, comparisons]: 1 first, 0 second, ½ tie, NaN not judged."""


def agreement_figures(
    dimension: str,
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    reliability: Sequence[float | None] | None,
    seed: int,
) -> AgreementFigures:
    """Everything about the annotators of one dimension. Comparisons: of that dimension, by two texts each."""
    table = _table(names, comparisons)
    judged = (~np.isnan(table)).sum(axis=0)
    shared = table[:, judged >= 2]
    annotators = _annotators(names, table, comparisons, reliability)
    if not shared.size:
        return AgreementFigures(dimension=dimension, comparisons=0, measurable=False, annotators=annotators)
    prompts = [each.judgement.prompt for each, count in zip(comparisons, judged, strict=True) if count >= 2]
    whole = table[:, judged == len(names)]
    return AgreementFigures(
        dimension=dimension,
        comparisons=shared.shape[1],
        measurable=True,
        alpha=alpha(shared),
        alpha_interval=_alpha_interval(shared, prompts, seed),
        fleiss_kappa=fleiss(whole),
        fleiss_comparisons=whole.shape[1],
        pairs=_pairs(names, table),
        annotators=annotators,
    )


def alpha(table: Table) -> float | None:
    """Krippendorff's alpha, nominal. None where only one verdict was ever given: agreement by chance is total then."""
    import krippendorff

    values = table[~np.isnan(table)]
    if len(np.unique(values)) < 2 or not ((~np.isnan(table)).sum(axis=0) >= 2).any():
        return None
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))


def fleiss(table: Table) -> float | None:
    """Fleiss' kappa over comparisons that all annotators judged; None without one, or with one verdict only."""
    if table.shape[0] < 2 or table.shape[1] == 0 or len(np.unique(table)) < 2:
        return None
    from statsmodels.stats.inter_rater import fleiss_kappa

    counts = np.stack([(table == category).sum(axis=0) for category in _CATEGORIES], axis=1)
    return float(fleiss_kappa(counts[:, counts.sum(axis=0) > 0]))


def cohen(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Cohen's kappa of two annotators on the comparisons both judged; None where it is not defined."""
    if len(first) == 0 or len(np.unique(np.concatenate([first, second]))) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score((first * 2).astype(int), (second * 2).astype(int)))


def _table(names: Sequence[str], comparisons: Sequence[Comparison]) -> Table:
    table = np.full((len(names), len(comparisons)), np.nan)
    for at, each in enumerate(comparisons):
        for who, vote in enumerate(each.votes):
            if vote is not None:
                table[who, at] = vote
    return table


def _alpha_interval(table: Table, prompts: Sequence[bytes], seed: int) -> Interval | None:
    """95 % percentile interval by a bootstrap of prompts."""
    places: dict[bytes, int] = {}
    groups = np.array([places.setdefault(prompt, len(places)) for prompt in prompts], dtype=np.int64)
    if len(places) < 2:
        return None
    disagreement, counts = alpha_sums(table)
    sums = np.column_stack([disagreement, counts])
    by_group = np.stack([np.bincount(groups, weights=column) for column in sums.T], axis=1).astype(np.float64)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        times = np.bincount(generator.integers(len(places), size=len(places)), minlength=len(places))
        total = times.astype(np.float64) @ by_group
        found = alpha_of(float(total[0]), total[1:])
        if found is not None:
            drawn.append(found)
    if not drawn:
        return None
    lower, upper = np.percentile(drawn, [2.5, 97.5])
    return float(lower), float(upper)


def alpha_sums(table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What nominal alpha is made of, by comparison: its disagreement [comparisons], and its verdicts' counts [.., 3].

    Krippendorff (2011), B and C: a comparison's pairs of different verdicts count 1/(votes - 1). The sums of a resample
    are those of its parts, so that a bootstrap counts nothing again. Comparisons with fewer than two votes add nothing.
    """
    counts = np.stack([(table == category).sum(axis=0) for category in _CATEGORIES], axis=1).astype(float)
    votes = counts.sum(axis=1)
    counts[votes < 2] = 0.0
    different = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1)
    return different / np.maximum(votes - 1, 1), counts


def alpha_of(disagreement: float, counts: NDArray[np.float64]) -> float | None:
    """Alpha of summed disagreement and counts [3]; None where only one verdict was ever given."""
    total = float(counts.sum())
    expected = total**2 - float((counts**2).sum())
    return 1.0 - (total - 1) * disagreement / expected if expected > 0 else None


def _pairs(names: Sequence[str], table: Table) -> tuple[PairAgreement, ...]:
    found = []
    for one, other in combinations(range(len(names)), 2):
        both = ~np.isnan(table[one]) & ~np.isnan(table[other])
        if both.any():
            first, second = table[one, both], table[other, both]
            found.append(
                PairAgreement(
                    first=names[one],
                    second=names[other],
                    rows=int(both.sum()),
                    same=float((first == second).mean()),
                    kappa=cohen(first, second),
                )
            )
    return tuple(found)


def _annotators(
    names: Sequence[str], table: Table, comparisons: Sequence[Comparison], reliability: Sequence[float | None] | None
) -> tuple[AnnotatorFigures, ...]:
    gold = np.array([np.nan if each.gold is None else each.gold for each in comparisons], dtype=float)
    found = []
    for who, name in enumerate(names):
        own = ~np.isnan(table[who])
        checked = own & ~np.isnan(gold)
        right = int((table[who, checked] == gold[checked]).sum())
        count = int(checked.sum())
        found.append(
            AnnotatorFigures(
                name=name,
                votes=int(own.sum()),
                agreement=_with_others(table, who),
                reliability=reliability[who] if reliability is not None else None,
                gold_rows=count,
                gold_accuracy=right / count if count else None,
                gold_interval=wilson(right / count, count) if count else None,
            )
        )
    return tuple(found)


def _with_others(table: Table, who: int) -> float | None:
    """Mean share of the others who gave the same verdict, over comparisons that another judged as well."""
    others = np.delete(table, who, axis=0)
    shared = ~np.isnan(table[who]) & (~np.isnan(others)).any(axis=0)
    if not shared.any():
        return None
    same = (others[:, shared] == table[who, shared]).sum(axis=0) / (~np.isnan(others[:, shared])).sum(axis=0)
    return float(same.mean())

"""Held-out judgements and their scores → everything that is measured in one dimension. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calibration import Temperature, calibration_bins, expected_calibration_error
from .judged import Judged
from .measures import Accuracy, DimensionReport, Histogram, LengthReport, SliceAccuracy
from .statistics import (
    LENGTH_TOLERANCE,
    Array,
    Groups,
    Pairs,
    about_equal,
    accuracy_interval,
    histogram,
    matched_halves,
    outcomes,
    paired_difference,
    slices,
    spearman,
)

SLICES = 200
"""Slices that are measured, the largest first: a column with a value for every row has no slices worth a figure."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A held-out row with its calibrated scores."""

    row: Judged
    first: float
    second: float
    """0 for a lone response."""

    @property
    def winner(self) -> float:
        """Score of the preferred response minus that of the other."""
        return self.first - self.second if self.row.p_first > 0.5 else self.second - self.first

    @property
    def longer(self) -> float:
        """Length of the preferred response minus that of the other, in characters."""
        difference = float(len(self.row.first) - len(self.row.second or ""))
        return difference if self.row.p_first > 0.5 else -difference


def evaluate(
    dimension: str,
    rows: Sequence[Judged],
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    temperatures: Sequence[Temperature],
    slice_min_samples: int = 30,
    seed: int,
) -> DimensionReport:
    """Measure one dimension on its held-out rows; with folds, on those of all rounds one after the other.

    first, second: calibrated scores (a logit over its round's temperature); None where there is none: of a lone
    response's second always, otherwise the row is left out and counted.
    """
    scored = _scored(rows, first, second)
    pairs = [each for each in scored if each.row.second is not None and not each.row.tie]
    lone = [each for each in scored if each.row.second is None]
    arrays = _pairs(pairs)
    lone_margins, lone_groups, lone_slices = _lone_pairs(lone)
    margins = np.concatenate([arrays.margin, lone_margins])
    groups = np.concatenate([arrays.groups, lone_groups])
    found = outcomes(margins)
    z = np.array([each.first - each.second for each in scored], dtype=float)
    bins = calibration_bins(z, np.array([each.row.p_first for each in scored], dtype=float))
    parts = [each.row.slices for each in pairs] + lone_slices
    return DimensionReport(
        dimension=dimension,
        accuracy=_accuracy(found, groups, seed),
        ties=sum(each.row.tie for each in scored),
        lone=len(lone),
        lone_pairs=len(lone_margins),
        unscored=len(rows) - len(scored),
        length=_length(scored, arrays, seed),
        temperatures=tuple(temperatures),
        calibration_error=expected_calibration_error(bins),
        reliability=tuple(bins),
        margins=_histogram(margins),
        slices=tuple(
            SliceAccuracy(
                column=each.column,
                slice=each.value,
                value=float(each.outcomes.mean()),
                interval=accuracy_interval(each.outcomes, each.groups, seed),
                pairs=len(each.outcomes),
                prompts=len(np.unique(each.groups)),
            )
            for each in slices(parts, found, groups, SLICES)
        ),
        slice_min_samples=slice_min_samples,
    )


def _scored(rows: Sequence[Judged], first: Sequence[float | None], second: Sequence[float | None]) -> list[Scored]:
    found = []
    for row, ours, theirs in zip(rows, first, second, strict=True):
        other = 0.0 if row.second is None else theirs
        if ours is not None and other is not None:
            found.append(Scored(row, ours, other))
    return found


def _pairs(pairs: Sequence[Scored]) -> Pairs:
    return Pairs(
        margin=np.array([each.winner for each in pairs], dtype=float),
        length=np.array([each.longer for each in pairs], dtype=float),
        matched=np.array([about_equal(len(each.row.first), len(each.row.second or "")) for each in pairs], dtype=bool),
        groups=np.array([each.row.group for each in pairs], dtype=np.int64),
    )


def _lone_pairs(lone: Sequence[Scored]) -> tuple[Array, Groups, list[dict[str, str]]]:
    """Margins of a better over a worse lone response; each response stands in one pair at most."""
    met = matched_halves(np.array([each.row.p_first for each in lone], dtype=float))
    margins = np.array([lone[high].first - lone[low].first for high, low in met], dtype=float)
    groups = np.array([lone[high].row.group for high, _ in met], dtype=np.int64)
    # A pair belongs to a slice when both of its responses do.
    parts = [dict(lone[high].row.slices.items() & lone[low].row.slices.items()) for high, low in met]
    return margins, groups, parts


def _accuracy(found: Array, groups: Groups, seed: int) -> Accuracy | None:
    if not len(found):
        return None
    return Accuracy(
        value=float(found.mean()),
        interval=accuracy_interval(found, groups, seed),
        pairs=len(found),
        prompts=len(np.unique(groups)),
    )


def _length(scored: Sequence[Scored], pairs: Pairs, seed: int) -> LengthReport:
    ours, rule = outcomes(pairs.margin), outcomes(pairs.length)
    texts: dict[tuple[int, str], float] = {}
    for each in scored:
        texts.setdefault((each.row.group, each.row.first), each.first)
        if each.row.second is not None:
            texts.setdefault((each.row.group, each.row.second), each.second)
    lengths = np.array([len(text) for _, text in texts], dtype=float)
    return LengthReport(
        rule=_accuracy(rule, pairs.groups, seed),
        over_rule=paired_difference(ours, rule, pairs.groups, seed) if len(ours) else None,
        matched=_accuracy(ours[pairs.matched], pairs.groups[pairs.matched], seed),
        tolerance=LENGTH_TOLERANCE,
        spearman=spearman(np.array(list(texts.values()), dtype=float), lengths),
        spearman_responses=len(texts),
        spearman_of_differences=spearman(pairs.margin, pairs.length),
    )


def _histogram(margins: Array) -> Histogram | None:
    if not len(margins):
        return None
    edges, counts = histogram(margins)
    return Histogram(edges=tuple(edges), counts=tuple(counts))

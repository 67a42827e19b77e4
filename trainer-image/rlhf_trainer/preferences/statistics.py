"""Figures on held-out judgements from scores: accuracy, its interval, length, slices. Pure arithmetic, no models."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_trainer.comparison import interval, wilson

LENGTH_TOLERANCE = 0.1
"""Two responses are of about equal length when the shorter has at least 90 % of the longer one's characters. Fixed
before anything was measured: about half a line in a paragraph, which nobody sees at a glance; a report can't be made
to look better by moving it."""

Array = NDArray[np.float64]
Groups = NDArray[np.int64]
Interval = tuple[float, float]


class Pairs(NamedTuple):
    """Comparisons with a winner, turned so that all arrays speak of the preferred response. All: [pairs]."""

    margin: Array
    """Score of the preferred response minus that of the other."""
    length: Array
    """Its length minus the other's, in characters."""
    matched: NDArray[np.bool_]
    """Whether the two are of about equal length."""
    groups: Groups
    """Prompt groups."""


def outcomes(margin: Array) -> Array:
    """1 where the preferred response scores higher, 0 where lower, ½ where equal."""
    return np.where(margin > 0, 1.0, np.where(margin < 0, 0.0, 0.5))


def accuracy_interval(found: Array, groups: Groups, seed: int) -> Interval:
    """95 % interval of the mean outcome: Wilson's where every prompt has one pair, else a bootstrap over prompts."""
    names, places = np.unique(groups, return_inverse=True)
    if len(names) == len(found):
        return wilson(float(found.mean()), len(found))
    return interval(found, places, len(names), seed)


def paired_difference(ours: Array, theirs: Array, groups: Groups, seed: int) -> tuple[float, float, float]:
    """Mean of ours − theirs on the same pairs, and its 95 % interval by a paired bootstrap over prompts."""
    names, places = np.unique(groups, return_inverse=True)
    # On 0–1, where the interval's own way out for samples without spread holds.
    lower, upper = interval((ours - theirs + 1.0) / 2.0, places, len(names), seed)
    return float((ours - theirs).mean()), 2.0 * lower - 1.0, 2.0 * upper - 1.0


def about_equal(first: int, second: int) -> bool:
    """Whether two lengths differ by at most the tolerance."""
    return min(first, second) >= (1.0 - LENGTH_TOLERANCE) * max(first, second)


def spearman(first: Array, second: Array) -> float | None:
    """Spearman's rank correlation; None for fewer than three values, or where either never changes."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def matched_halves(values: Array) -> list[tuple[int, int]]:
    """Pair lone responses for a comparison: each (better, worse) has different values, and each is used once.

    In order of value the k-th of the lower half meets the k-th of the upper half, so that a rule which says the same of
    everything is right half of the time, however unequal the classes are. values: [responses], 0–1, in an order that
    has nothing to do with the scores.
    """
    order = np.argsort(values, kind="stable")
    half = len(order) // 2
    pairs = zip(order[len(order) - half :], order[:half], strict=True)
    return [(int(high), int(low)) for high, low in pairs if values[high] > values[low]]


class SliceCount(NamedTuple):
    """Outcomes on one part of the data."""

    column: str
    value: str
    outcomes: Array
    groups: Groups


def slices(parts: Sequence[dict[str, str]], found: Array, groups: Groups, limit: int) -> list[SliceCount]:
    """Outcomes by column and value, in that order, of the `limit` largest slices. parts: [pairs], column → value."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, part in enumerate(parts):
        for column, value in part.items():
            places[column, value].append(at)
    largest = sorted(places, key=lambda name: (-len(places[name]), name))[:limit]
    return [SliceCount(*name, found[places[name]], groups[places[name]]) for name in sorted(largest)]


def histogram(values: Array, bins: int = 20) -> tuple[list[float], list[int]]:
    """Edges and counts of equal bins that lie symmetrically about 0; single far values fall into the outermost."""
    reach = float(np.percentile(np.abs(values), 99)) or 1.0
    edges = np.linspace(-reach, reach, bins + 1)
    counts, _ = np.histogram(np.clip(values, -reach, reach), bins=edges)
    return [float(edge) for edge in edges], [int(count) for count in counts]

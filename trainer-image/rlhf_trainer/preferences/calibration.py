"""From logits to scores that mean what they say: a temperature fitted on rows of its own, and how far off it is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhf_operator.api.base import Model

from .judged import Judged

MIN_ROWS = 8
"""Below this a temperature says more about the draw than about the model."""
REACH = 100.0
"""The temperature is looked for within this factor of the spread of the score differences."""
BINS = 10
"""Bins of equal width between ½ and 1 for the expected calibration error."""

Array = NDArray[np.float64]


class Temperature(Model):
    """What a logit is divided by to become a score."""

    value: float = 1.0
    rows: int = 0
    """Rows it was fitted on."""
    fitted: bool = False
    """False: too few rows, or all alike; the value is 1."""
    nll_before: float | None = None
    """Mean negative log-likelihood on those rows at temperature 1, in nats."""
    nll_after: float | None = None


class Bin(Model):
    """Rows of about equal confidence."""

    lower: float
    upper: float
    rows: int
    confidence: float
    """Mean probability given to the likelier side."""
    share: float
    """Share of judgements for that side; a soft label counts as it is."""


def fit_temperature(rows: Sequence[Judged], first: Sequence[float], second: Sequence[float | None]) -> Temperature:
    """The temperature of least negative log-likelihood of the soft labels, each row by its weight (Guo et al. 2017).

    first, second: logits of the rows' responses; None for the second of a lone one. Hard labels are drawn in by
    1/(rows + 2) as Platt (1999) has it: rows that all come out right would ask for a temperature of 0.
    """
    z, p, w = _arrays(rows, first, second)
    spread = float(np.sqrt(np.average(z**2, weights=w))) if len(z) else 0.0
    if len(z) < MIN_ROWS or spread == 0.0:
        return Temperature(rows=len(z))
    from scipy.optimize import minimize_scalar

    slack = 1.0 / (len(z) + 2)
    soft = p * (1 - 2 * slack) + slack
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(z / np.exp(log_t), soft, w),
        bounds=(np.log(spread / REACH), np.log(spread * REACH)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    value = float(np.exp(found.x))
    return Temperature(
        value=value,
        rows=len(z),
        fitted=True,
        nll_before=negative_log_likelihood(z, p, w),
        nll_after=negative_log_likelihood(z / value, p, w),
    )


def negative_log_likelihood(z: Array, p: Array, weights: Array) -> float:
    """Weighted mean of −[p·log σ(z) + (1−p)·log σ(−z)], in nats. z: score differences; p: soft labels; [rows] all."""
    return float(np.average(p * np.logaddexp(0.0, -z) + (1 - p) * np.logaddexp(0.0, z), weights=weights))


def calibration_bins(z: Array, p: Array) -> list[Bin]:
    """Rows by the confidence max(σ(z), σ(−z)), against the soft labels of the likelier side. z, p: [rows]."""
    confidence = 1.0 / (1.0 + np.exp(-np.abs(z)))
    side = np.where(z > 0, p, np.where(z < 0, 1 - p, 0.5))
    edges = np.linspace(0.5, 1.0, BINS + 1)
    places = np.minimum(np.digitize(confidence, edges) - 1, BINS - 1)
    found = []
    for at in range(BINS):
        own = places == at
        if own.any():
            found.append(
                Bin(
                    lower=float(edges[at]),
                    upper=float(edges[at + 1]),
                    rows=int(own.sum()),
                    confidence=float(confidence[own].mean()),
                    share=float(side[own].mean()),
                )
            )
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """Mean over rows of |confidence − share| of their bin (Naeini et al. 2015); None without a row."""
    rows = sum(each.rows for each in bins)
    return sum(each.rows * abs(each.confidence - each.share) for each in bins) / rows if rows else None


def _arrays(
    rows: Sequence[Judged], first: Sequence[float], second: Sequence[float | None]
) -> tuple[Array, Array, Array]:
    z, p, w = [], [], []
    for row, ours, theirs in zip(rows, first, second, strict=True):
        z.append(ours - (theirs or 0.0))
        p.append(row.p_first)
        w.append(row.weight)
    return np.array(z, dtype=float), np.array(p, dtype=float), np.array(w, dtype=float)

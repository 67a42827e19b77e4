"""The gate's arithmetic: which figures pass which limits. The verdict on a whole evaluation is the publish pod's."""

from .evaluation import Baseline
from .result import Comparison


def gain(comparison: Comparison) -> float:
    """Return by how much the trained policy's mean score is above the baseline's."""
    return comparison.mean - comparison.baseline_mean


def win_rate_holds(comparison: Comparison, limit: float | None) -> bool:
    """Whether the lower bound of the interval reaches minWinRate."""
    return limit is None or comparison.lower >= limit


def improvement_holds(comparison: Comparison, limit: float | None) -> bool:
    """Whether the gain over the warm start reaches minImprovement; other baselines are not asked for it."""
    return limit is None or comparison.baseline != Baseline.WARM_START or gain(comparison) >= limit

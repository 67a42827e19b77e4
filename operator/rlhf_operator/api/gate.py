"""The gate's arithmetic: which figures pass which limits. The verdict on a whole evaluation is the publish pod's."""

from .evaluation import Baseline, Slices
from .result import Comparison, SliceScore, SuiteScore

_HAIR = 1e-9
"""0.6 - 0.5 is less than 0.1 in floating point; a limit that is just met is met."""


def gain(comparison: Comparison) -> float:
    """Return by how much the trained policy's mean score is above the baseline's."""
    return comparison.mean - comparison.baseline_mean


def win_rate_holds(comparison: Comparison, limit: float | None) -> bool:
    """Whether the lower bound of the interval reaches minWinRate."""
    return limit is None or comparison.lower >= limit


def improvement_holds(comparison: Comparison, limit: float | None) -> bool:
    """Whether the gain over the warm start reaches minImprovement; other baselines are not asked for it."""
    return limit is None or comparison.baseline != Baseline.WARM_START or gain(comparison) >= limit - _HAIR


def suite_holds(score: SuiteScore, max_drop: float) -> bool:
    """Whether the mean score of a suite fell no further than maxDrop."""
    return score.drop <= max_drop + _HAIR


def slice_holds(score: SliceScore, limits: Slices) -> bool:
    """Whether a slice fell no further than maxDrop; one below minSamples gates nothing."""
    return score.samples < limits.min_samples or score.drop <= limits.max_drop + _HAIR

"""A reward model's gate: its limits, the figures held against them, and which of them missed. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf_operator.api.base import Model

Share = Annotated[float, Field(ge=0, le=1)]


class RewardGate(Model):
    """Limits; None is no limit. Where several dimensions are judged each must hold them."""

    min_accuracy: Share | None = None
    min_lower_bound: Share | None = None
    max_calibration_error: Share | None = None
    max_length_bias: Share | None = None
    must_prefer: bool = False
    """Whether every pair of `mustPrefer` must come out right."""
    slice_min_accuracy: Share | None = None
    slice_min_samples: int = 30

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by their field in the spec."""
        named = {
            "minAccuracy": self.min_accuracy,
            "minLowerBound": self.min_lower_bound,
            "maxCalibrationError": self.max_calibration_error,
            "maxLengthBias": self.max_length_bias,
            "slices.minAccuracy": self.slice_min_accuracy,
        }
        found = {name: limit for name, limit in named.items() if limit is not None}
        return found | ({"mustPrefer": 1.0} if self.must_prefer else {})


class SliceFigure(Model):
    """Accuracy on one part of the held-out data."""

    column: str
    value: str
    accuracy: float
    pairs: int


class RewardFigures(Model):
    """What was measured on held-out data in one dimension. A figure that could not be measured is None."""

    dimension: str
    pairs: int
    """Held-out pairs with a preference; ties are not judged."""
    prompts: int
    accuracy: float | None = None
    """Share of the pairs that came out right; equal scores count one half."""
    accuracy_interval: tuple[float, float] | None = None
    """95 %: Wilson's, or by bootstrap over prompts where a prompt has several pairs."""
    length_accuracy: float | None = None
    """The same for the rule that the longer answer wins."""
    over_length: tuple[float, float, float] | None = None
    """Accuracy minus that of the longer answer: mean and 95 % interval of the paired bootstrap by prompt."""
    length_matched_accuracy: float | None = None
    """Accuracy on pairs of about equal length."""
    length_matched_pairs: int = 0
    calibration_error: float | None = None
    """Expected calibration error of σ(score difference), after the temperature."""
    length_bias: float | None = None
    """Spearman correlation of score and response length."""
    must_prefer_pairs: int = 0
    must_prefer_missed: int = 0
    worst_slice: SliceFigure | None = None
    """The slice of lowest accuracy among those with enough samples."""


def missed(gate: RewardGate, figures: list[RewardFigures]) -> list[str]:
    """Return, in words, every limit that does not hold. A figure that is not there has missed its limit."""
    if not figures:
        return ["nothing was measured"] if gate.limits else []
    return [words for each in figures for words in _missed_in(gate, each, named=len(figures) > 1)]


def _missed_in(gate: RewardGate, found: RewardFigures, *, named: bool) -> list[str]:
    interval = found.accuracy_interval
    bias = abs(found.length_bias) if found.length_bias is not None else None
    checks = (
        ("accuracy", found.accuracy, "minAccuracy", gate.min_accuracy, False),
        ("lower bound of accuracy", interval[0] if interval else None, "minLowerBound", gate.min_lower_bound, False),
        ("calibration error", found.calibration_error, "maxCalibrationError", gate.max_calibration_error, True),
        ("length bias", bias, "maxLengthBias", gate.max_length_bias, True),
    )
    prefix = f"{found.dimension}: " if named else ""
    words = [
        f"{prefix}{what} {'was not measured' if value is None else f'{value:.3f}'} "
        f"{'>' if highest else '<'} {field} {limit:g}"
        for what, value, field, limit, highest in checks
        if limit is not None and (value is None or (value > limit if highest else value < limit))
    ]
    if gate.must_prefer and (found.must_prefer_missed or not found.must_prefer_pairs):
        words.append(f"{prefix}{found.must_prefer_missed} of {found.must_prefer_pairs} mustPrefer pairs came out wrong")
    worst, limit = found.worst_slice, gate.slice_min_accuracy
    if limit is not None and worst is not None and worst.accuracy < limit:
        words.append(
            f"{prefix}accuracy {worst.accuracy:.3f} < slices.minAccuracy {limit:g} where {worst.column} is "
            f"{worst.value!r} ({worst.pairs} pairs)"
        )
    return words

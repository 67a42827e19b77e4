"""What was measured on held-out judgements in one dimension: part of report.json. Only types."""

from rlhf_operator.api.base import Model
from rlhf_operator.api.rewardgate import RewardFigures, SliceFigure

from .calibration import Bin, Temperature

Interval = tuple[float, float]


class Accuracy(Model):
    """Share of pairs that come out right; equal scores count one half."""

    value: float
    interval: Interval
    """95 %: Wilson's, or by bootstrap over prompts where a prompt has several pairs."""
    pairs: int
    prompts: int


class SliceAccuracy(Accuracy):
    """Accuracy on one part of the held-out data."""

    column: str
    slice: str


class LengthReport(Model):
    """The score against the length of responses, in characters."""

    rule: Accuracy | None = None
    """The rule that the longer answer wins, on the same pairs."""
    over_rule: tuple[float, float, float] | None = None
    """Accuracy minus the rule's: mean and 95 % interval of the paired bootstrap by prompt."""
    matched: Accuracy | None = None
    """On pairs of about equal length."""
    tolerance: float
    """How much shorter the shorter one of such a pair is at most, as a share of the longer."""
    spearman: float | None = None
    """Of score and length, each response once."""
    spearman_responses: int = 0
    spearman_of_differences: float | None = None
    """Of score difference and length difference, by pair: free of what sets prompts apart."""


class Histogram(Model):
    """Counts between edges; the outermost bins hold what lies beyond."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class BiasEffect(Model):
    """What a change that adds no content does to the score."""

    probe: str
    what: str
    """The change, in words."""
    texts: int
    effect: float | None = None
    """Mean change of the score in standard deviations of the unchanged texts' scores; above 0: the change pays."""
    interval: Interval | None = None
    """95 %, Student's t over texts."""
    share_raised: float | None = None
    """Share of the texts whose score rises."""
    note: str = ""


class MissedPair(Model):
    """A mustPrefer pair that came out wrong."""

    row: int
    prompt: str
    chosen_score: float | None
    rejected_score: float | None


class MustPreferReport(Model):
    """The pairs that must all come out right."""

    pairs: int
    missed: tuple[MissedPair, ...] = ()


class DimensionReport(Model):
    """One dimension on held-out judgements."""

    dimension: str
    accuracy: Accuracy | None = None
    ties: int
    """Held-out comparisons without a winner: not judged, but part of the calibration error."""
    lone: int
    """Held-out responses judged by themselves."""
    lone_pairs: int
    """Pairs made of them, a better one with a worse one of other prompts, to judge them by."""
    unscored: int
    """Comparisons left out because a score is missing."""
    length: LengthReport
    temperatures: tuple[Temperature, ...]
    """By round."""
    calibration_error: float | None = None
    """Expected calibration error of σ(score difference)."""
    reliability: tuple[Bin, ...] = ()
    margins: Histogram | None = None
    """Score of the preferred response minus that of the other."""
    slices: tuple[SliceAccuracy, ...] = ()
    slice_min_samples: int
    biases: tuple[BiasEffect, ...] = ()
    must_prefer: MustPreferReport | None = None

    @property
    def worst_slice(self) -> SliceAccuracy | None:
        """The slice of lowest accuracy among those with enough pairs."""
        enough = [each for each in self.slices if each.pairs >= self.slice_min_samples]
        return min(enough, key=lambda each: (each.value, each.column, each.slice), default=None)

    def figures(self) -> RewardFigures:
        """What the gate, status and the manifest have of it."""
        worst, length, must = self.worst_slice, self.length, self.must_prefer
        return RewardFigures(
            dimension=self.dimension,
            pairs=self.accuracy.pairs if self.accuracy else 0,
            prompts=self.accuracy.prompts if self.accuracy else 0,
            accuracy=self.accuracy.value if self.accuracy else None,
            accuracy_interval=self.accuracy.interval if self.accuracy else None,
            length_accuracy=length.rule.value if length.rule else None,
            over_length=length.over_rule,
            length_matched_accuracy=length.matched.value if length.matched else None,
            length_matched_pairs=length.matched.pairs if length.matched else 0,
            calibration_error=self.calibration_error,
            length_bias=length.spearman,
            must_prefer_pairs=must.pairs if must else 0,
            must_prefer_missed=len(must.missed) if must else 0,
            worst_slice=SliceFigure(column=worst.column, value=worst.slice, accuracy=worst.value, pairs=worst.pairs)
            if worst
            else None,
        )

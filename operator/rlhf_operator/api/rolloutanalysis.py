"""What a PolicyRollout measures: metrics, presets, queries. The statistics are the controller's."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from .base import Model, Rule
from .data import ConfigMapSource, LocalSecretRef
from .graders import Scorer
from .meta import map_list
from .scalars import HTTPURL, Between, DecimalText, Duration, EntryName, Rate, ShortText

Value = Annotated[float, Field(ge=-1.0e12, le=1.0e12)]
Ratio = Annotated[float, Field(gt=0, le=1000)]


class UpperLimit(Model):
    """A figure that must stay low: absolutely, or against stable."""

    one_of: ClassVar[tuple[str, ...]] = ("max", "max_ratio")

    max: Value | None = None
    """Highest value."""
    max_ratio: Ratio | None = None
    """Highest multiple of stable's value in the same window."""


class LowerLimit(Model):
    """A figure that must stay high: absolutely, or against stable."""

    one_of: ClassVar[tuple[str, ...]] = ("min", "min_ratio")

    min: Value | None = None
    """Lowest value."""
    min_ratio: Ratio | None = None
    """Lowest multiple of stable's value in the same window."""


class LatencyLimit(Model):
    """A latency, judged as the share of requests above a threshold."""

    one_of: ClassVar[tuple[str, ...]] = ("max_share_above", "max_ratio")
    threshold: Annotated[Duration, Between("1ms", "1h")]
    """The latency that counts as slow."""
    max_share_above: Rate | None = None
    """Highest share of slow requests."""
    max_ratio: Ratio | None = None
    """Highest multiple of stable's share."""


class CostLimit(UpperLimit):
    """A cost by tokens; it must stay low."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "double(self.inputPrice) > 0.0 || double(self.outputPrice) > 0.0",
            "one of inputPrice and outputPrice must be above 0: else nothing costs anything",
        ),
    )

    input_price: DecimalText
    """Price of a million tokens of requests, as a decimal in quotes; a limit is in the same currency."""
    output_price: DecimalText
    """Price of a million tokens of answers."""


class ScoredUpperLimit(UpperLimit):
    """A share of answers that a scorer finds wanting; it must stay low."""

    scorer: Scorer
    """What judges the answers."""


class ScoredLowerLimit(LowerLimit):
    """A mean score; it must stay high."""

    scorer: Scorer
    """What judges the answers."""


class WinRate(Model):
    """How often the candidate's answer beats stable's to the same request; ties count one half."""

    scorer: Scorer
    """What judges the answers."""
    min: Annotated[float, Field(gt=0, lt=1)]
    """Lowest win rate."""


class Preset(Model):
    """A figure that the operator knows how to measure: exactly one."""

    one_of: ClassVar[tuple[str, ...]] = (
        "error_rate",
        "availability",
        "time_to_first_token",
        "time_per_output_token",
        "reward_mean",
        "reward_win_rate",
        "safety_violation_rate",
        "jailbreak_rate",
        "hallucination_rate",
        "negative_feedback_rate",
        "task_completion_rate",
        "escalation_rate",
        "tokens_per_request",
        "diversity",
        "cost_per_request",
    )
    error_rate: UpperLimit | None = None
    """Share of requests that failed."""
    availability: LowerLimit | None = None
    """Share of requests that were answered."""
    time_to_first_token: LatencyLimit | None = None
    """Time until the first token."""
    time_per_output_token: LatencyLimit | None = None
    """Time per further token."""
    reward_mean: ScoredLowerLimit | None = None
    """Mean score of the answers."""
    reward_win_rate: WinRate | None = None
    """Win rate against stable, on mirrored requests."""
    safety_violation_rate: ScoredUpperLimit | None = None
    """Share of unsafe answers."""
    jailbreak_rate: ScoredUpperLimit | None = None
    """Share of attacks that succeeded."""
    hallucination_rate: ScoredUpperLimit | None = None
    """Share of answers with invented facts."""
    negative_feedback_rate: UpperLimit | None = None
    """Share of feedback that is negative."""
    task_completion_rate: LowerLimit | None = None
    """Share of tasks that users completed."""
    escalation_rate: UpperLimit | None = None
    """Share of conversations handed to a person."""
    tokens_per_request: UpperLimit | None = None
    """Mean tokens of an answer."""
    diversity: LowerLimit | None = None
    """Variety of the answers: share of distinct word pairs in two answers, 0 to 1."""
    cost_per_request: CostLimit | None = None
    """Mean cost of a request, by its tokens."""

    @property
    def which(self) -> str:
        """The Python name of the one that is set."""
        return next(name for name in self.one_of if getattr(self, name) is not None)

    @property
    def scorer(self) -> Scorer | None:
        """What judges the answers; None for what needs no judge."""
        return getattr(getattr(self, self.which), "scorer", None)


Expression = Annotated[
    str, StringConstraints(pattern=r"^result *(>=|<=|==|!=|>|<) *-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$", max_length=64)
]
Query = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class PrometheusQuery(Model):
    """A figure of the user's own, in PromQL; `{{ .Candidate }}`, `{{ .Stable }}` and `{{ .Window }}` are filled in."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.success) || has(self.failure)",
            "set success, failure or both: without them every result is inconclusive",
        ),
    )

    value: Query
    """The figure: one sample."""
    samples: Query
    """How many samples it rests on; none is inconclusive, never a success."""
    success: Expression | None = None
    """Comparison that makes a measurement Successful, for example `result >= 0.9`."""
    failure: Expression | None = None
    """Comparison that makes a measurement Failed; between the two it is Inconclusive."""


class MetricSet(Model):
    """Metrics kept in a ConfigMap, for several rollouts to share: a YAML list of entries as in `metrics`."""

    config_map: ConfigMapSource
    """The ConfigMap and its key."""
    args: Annotated[dict[EntryName, Annotated[str, StringConstraints(max_length=256)]], Field(max_length=16)] = {}
    """Values of `{{ .Args.name }}` in their queries."""


class AdvanceWhen(StrEnum):
    """What a step waits for."""

    NOT_FAILED = "NotFailed"
    PROVEN = "Proven"


class MetricMode(StrEnum):
    """How candidate and stable are compared."""

    PAIRED = "Paired"
    UNPAIRED = "Unpaired"


class MetricSlice(Model):
    """A part of the traffic."""

    column: Annotated[str, StringConstraints(pattern=r"^[a-z][a-zA-Z0-9]*$", max_length=40)]
    """Label to slice by: team, feature, cohort or language."""
    value: ShortText
    """Its value."""


class Metric(Model):
    """One figure and what it decides."""

    one_of: ClassVar[tuple[str, ...]] = ("preset", "query")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.mode) || has(self.preset)",
            "mode compares answers and belongs to presets: remove it from the query",
        ),
    )

    name: EntryName
    """Name of the metric, unique in the list."""
    preset: Preset | None = None
    """A figure that the operator knows."""
    query: PrometheusQuery | None = None
    """A figure of your own."""
    advance_when: AdvanceWhen = AdvanceWhen.NOT_FAILED
    """NotFailed: a step goes on unless this failed; Proven: only once it is Successful."""
    mode: MetricMode | None = None
    """Paired compares answers to the same request and needs a mirror (default for rewardWinRate); Unpaired compares
    independent samples (default for the others)."""
    failure_limit: Annotated[int, Field(ge=0, le=1000)] = 0
    """Failed measurements that are tolerated."""
    inconclusive_limit: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Inconclusive measurements after which the rollout pauses; none when unset."""
    error_limit: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Errors in a row after which the rollout pauses; none when unset."""
    initial_delay: Annotated[Duration, Between("0s", "168h")] = Duration("0s")
    """Time at the start of a step that is not measured."""
    dry_run: bool = False
    """Measure and report, decide nothing."""
    slice: MetricSlice | None = None
    """Measure only a part of the traffic."""


class PrometheusServer(Model):
    """The Prometheus that is asked."""

    url: HTTPURL
    """Its address; must be on the operator's list of allowed addresses."""
    secret_ref: LocalSecretRef | None = None
    """Secret with key `token`, or `username` and `password`."""


class Analysis(Model):
    """What is measured while a rollout is under way."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.metrics) && self.metrics.size() > 0) || (has(self.metricSets) && self.metricSets.size() > 0)",
            "an analysis measures something: set metrics, metricSets or both",
        ),
    )

    prometheus: PrometheusServer | None = None
    """The Prometheus that is asked; by default the operator's."""
    interval: Annotated[Duration, Between("1s", "24h")] = Duration("30s")
    """Time between two rounds."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Confidence for the rollout as a whole, shared among metrics and steps."""
    metrics: Annotated[list[Metric], map_list("name", 16)] = []
    """What is measured."""
    metric_sets: Annotated[list[MetricSet], Field(max_length=8)] = []
    """More of it, from ConfigMaps. A name that is also in `metrics`, or in an earlier set, is refused."""


PAIRED = "(has(m.mode) ? m.mode == 'Paired' : has(m.preset) && has(m.preset.rewardWinRate))"
"""CEL: metric m compares answers to the same request."""

__all__ = [
    "PAIRED",
    "AdvanceWhen",
    "Analysis",
    "CostLimit",
    "LatencyLimit",
    "LowerLimit",
    "Metric",
    "MetricMode",
    "MetricSet",
    "MetricSlice",
    "Preset",
    "PrometheusQuery",
    "PrometheusServer",
    "ScoredLowerLimit",
    "ScoredUpperLimit",
    "UpperLimit",
    "WinRate",
]

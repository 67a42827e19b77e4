"""From a preset to the counts it is judged by: which series, of which revision, over which window. Pure PromQL text.

Every figure is a share (events of n) or a mean (sum and squares of n), for that is what confidence sequences take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rlhf_operator.api import signals
from rlhf_operator.api.rolloutanalysis import (
    CostLimit,
    LatencyLimit,
    LowerLimit,
    Metric,
    MetricMode,
    MetricSlice,
    UpperLimit,
    WinRate,
)
from rlhf_operator.api.signals import PairOutcome, RequestOutcome, Role

NEGATIVE_VERDICTS = ("partially_wrong", "correct_but_unhelpful", "unsafe", "hallucinated", "thumbs_down")


class Kind(StrEnum):
    """What a figure is made of."""

    SHARE = "share"
    MEAN = "mean"
    WIN_OF_MEANS = "win of means"
    """How often an answer of the candidate scores above one of stable's, when scores are taken for normal."""


class Side(StrEnum):
    """On which side of its limit a figure is bad."""

    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure is held against.

    absolute: a value. ratio: a multiple of stable's figure in the same window. Exactly one is set.
    """

    side: Side
    absolute: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """How one preset is measured.

    counts: PromQL by name (share: events, n; mean: plus, minus, squares, n), with SELECT standing for the matchers of
        one revision and WINDOW for the range.
    paired: needs answers of both revisions to the same request.
    user_facing: counts answers to users only; while a candidate has none of those, its copies are measured.
    users_only: what only users can say; copies have none.
    judged: exported by the live judge, not by the serving pods.
    """

    name: str
    kind: Kind
    counts: Mapping[str, str]
    limit: Limit
    paired: bool = False
    user_facing: bool = True
    users_only: bool = False
    judged: bool = False
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose figures, and since when.

    window: whole seconds, from the start of the step (after the metric's initial delay) to the evaluation time.
    candidate_live: whether users get the candidate's answers; else it has copies only.
    """

    namespace: str
    rollout: str
    stable: str
    candidate: str
    window: int
    candidate_live: bool


SELECT, WINDOW = "SELECT", "WINDOW"


def signal_of(metric: Metric) -> Signal | None:
    """Return how a metric is measured; None for one with a query of the user's own."""
    if metric.preset is None:
        return None
    field = metric.preset.which
    return _SIGNALS[field](metric, getattr(metric.preset, field))


def queries(signal: Signal, scope: Scope, part: MetricSlice | None) -> dict[str, str]:
    """Return PromQL by `<revision's role>/<count>`: `candidate/events`; stable's too, for ratios and for absolutes.

    Stable is always asked: an absolute limit that stable breaks as well says nothing against the candidate.
    """
    found = {}
    sides = {"candidate": scope.candidate}
    if not signal.paired:
        sides["stable"] = scope.stable
    for side, revision in sides.items():
        matchers = _matchers(signal, scope, side, revision, part)
        for name, text in signal.counts.items():
            found[f"{side}/{name}"] = text.replace(SELECT, matchers).replace(WINDOW, f"{scope.window}s")
    return found


def requests_query(scope: Scope, seconds: int) -> str:
    """Return PromQL for the requests that the candidate has answered, or failed to, in the last seconds."""
    role = Role.LIVE if scope.candidate_live else Role.SHADOW
    where = f'{_who(scope)},revision="{scope.candidate}",role="{role}"'
    return f'sum(increase({signals.REQUESTS}{{{where},outcome=~"{_ANSWERED}"}}[{seconds}s]))'


def serving_age_query(scope: Scope) -> str:
    """Return PromQL for the seconds since the candidate's pods were last heard of."""
    return _age(f'{signals.REQUESTS}{{{_who(scope)},revision="{scope.candidate}"}}')


def judge_age_query(scope: Scope) -> str:
    """Return PromQL for the seconds since the live judges were last heard of."""
    return _age(f"{signals.JUDGE_INFO}{{{_who(scope)}}}")


def _age(series: str) -> str:
    return f"time() - max(timestamp({series}))"


def _who(scope: Scope) -> str:
    return f'rlhf_namespace="{scope.namespace}",rlhf_rollout="{scope.rollout}"'


def _matchers(signal: Signal, scope: Scope, side: str, revision: str, part: MetricSlice | None) -> str:
    found = [_who(scope), f'revision="{revision}"']
    if signal.paired:
        found.append(f'against="{scope.stable}"')
    elif signal.user_facing:
        shadow = side == "candidate" and not scope.candidate_live and not signal.users_only
        found.append(f'role="{Role.SHADOW if shadow else Role.LIVE}"')
    if part is not None:
        value = part.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        found.append(f'{part.column}="{value}"')
    return ",".join(found)


def _increase(metric: str, more: str = "") -> str:
    return f"sum(increase({metric}{{{SELECT}{more}}}[{WINDOW}]))"


def _events(metric: str, more: str = "") -> str:
    # Nothing has happened yet is 0 and not unknown: whether there is anything at all is told by n.
    return f"({_increase(metric, more)} or vector(0))"


_ANSWERED = f"{RequestOutcome.OK}|{RequestOutcome.ERROR}"
_N_REQUESTS = _increase(signals.REQUESTS, f',outcome=~"{_ANSWERED}"')


def _upper(limit: UpperLimit) -> Limit:
    return Limit(Side.ABOVE, limit.max, limit.max_ratio)


def _lower(limit: LowerLimit) -> Limit:
    return Limit(Side.BELOW, limit.min, limit.min_ratio)


def _error_rate(metric: Metric, preset: UpperLimit) -> Signal:
    events = _events(signals.REQUESTS, f',outcome="{RequestOutcome.ERROR}"')
    return Signal("ErrorRate", Kind.SHARE, {"events": events, "n": _N_REQUESTS}, _upper(preset))


def _availability(metric: Metric, preset: LowerLimit) -> Signal:
    events = _events(signals.REQUESTS, f',outcome="{RequestOutcome.OK}"')
    return Signal("Availability", Kind.SHARE, {"events": events, "n": _N_REQUESTS}, _lower(preset))


def _latency(name: str, histogram: str, preset: LatencyLimit) -> Signal:
    bound = bucket(preset.threshold.seconds)
    below = _increase(f"{histogram}_bucket", f',le=~"{_le(bound)}"')
    count = _increase(f"{histogram}_count")
    limit = Limit(Side.ABOVE, preset.max_share_above, preset.max_ratio)
    return Signal(name, Kind.SHARE, {"events": f"({count} - {below})", "n": count}, limit)


def _time_to_first_token(metric: Metric, preset: LatencyLimit) -> Signal:
    return _latency("TimeToFirstToken", signals.TIME_TO_FIRST_TOKEN, preset)


def _time_per_output_token(metric: Metric, preset: LatencyLimit) -> Signal:
    return _latency("TimePerOutputToken", signals.TIME_PER_OUTPUT_TOKEN, preset)


def _rewards(metric: Metric) -> dict[str, str]:
    mine = f',scorer="{metric.name}"'
    return {
        "plus": _events(signals.REWARD_SUM, f'{mine},sign="positive"'),
        "minus": _events(signals.REWARD_SUM, f'{mine},sign="negative"'),
        "squares": _events(signals.REWARD_SQUARES, mine),
        "n": _increase(signals.REWARD_COUNT, mine),
    }


def _reward_mean(metric: Metric, preset: LowerLimit) -> Signal:
    return Signal("RewardMean", Kind.MEAN, _rewards(metric), _lower(preset), user_facing=False, judged=True)


def _reward_win_rate(metric: Metric, preset: WinRate) -> Signal:
    limit = Limit(Side.BELOW, preset.min)
    if metric.mode is MetricMode.UNPAIRED:
        return Signal("RewardWinRate", Kind.WIN_OF_MEANS, _rewards(metric), limit, user_facing=False, judged=True)
    mine = f',scorer="{metric.name}"'
    wins = _events(signals.WINS, f'{mine},outcome="{PairOutcome.WIN}"')
    ties = _events(signals.WINS, f'{mine},outcome="{PairOutcome.TIE}"')
    counts = {"events": f"({wins} + 0.5 * {ties})", "n": _increase(signals.WINS, mine)}
    return Signal("RewardWinRate", Kind.SHARE, counts, limit, paired=True, user_facing=False, judged=True, unit="pairs")


def _violations(name: str, metric: Metric, preset: UpperLimit) -> Signal:
    mine = f',scorer="{metric.name}"'
    counts = {"events": _events(signals.VIOLATIONS, mine), "n": _increase(signals.JUDGED, mine)}
    return Signal(name, Kind.SHARE, counts, _upper(preset), user_facing=False, judged=True)


def _safety_violation_rate(metric: Metric, preset: UpperLimit) -> Signal:
    return _violations("SafetyViolationRate", metric, preset)


def _hallucination_rate(metric: Metric, preset: UpperLimit) -> Signal:
    return _violations("HallucinationRate", metric, preset)


def _jailbreak_rate(metric: Metric, preset: UpperLimit) -> Signal:
    mine = f',scorer="{metric.name}"'
    counts = {
        "events": _events(signals.ATTACKS, f'{mine},result="succeeded"'),
        "n": _increase(signals.ATTACKS, mine),
    }
    return Signal("JailbreakRate", Kind.SHARE, counts, _upper(preset), user_facing=False, judged=True, unit="attacks")


def _negative_feedback_rate(metric: Metric, preset: UpperLimit) -> Signal:
    events = _events(signals.FEEDBACK, f',verdict=~"{"|".join(NEGATIVE_VERDICTS)}"')
    counts = {"events": events, "n": _increase(signals.FEEDBACK)}
    return Signal("NegativeFeedbackRate", Kind.SHARE, counts, _upper(preset), users_only=True, unit="ratings")


def _outcomes(name: str, yes: str, no: str, limit: Limit) -> Signal:
    counts = {
        "events": _events(signals.OUTCOMES, f',name="{yes}"'),
        "n": _increase(signals.OUTCOMES, f',name=~"{yes}|{no}"'),
    }
    return Signal(name, Kind.SHARE, counts, limit, users_only=True, unit="reports")


def _task_completion_rate(metric: Metric, preset: LowerLimit) -> Signal:
    return _outcomes("TaskCompletionRate", "task_completed", "task_not_completed", _lower(preset))


def _escalation_rate(metric: Metric, preset: UpperLimit) -> Signal:
    return _outcomes("EscalationRate", "escalated", "not_escalated", _upper(preset))


def _tokens_per_request(metric: Metric, preset: UpperLimit) -> Signal:
    counts = {
        "plus": _events(signals.TOKENS, ',direction="output"'),
        "squares": _events(signals.TOKENS_SQUARED),
        "n": _increase(signals.REQUESTS, f',outcome="{RequestOutcome.OK}"'),
    }
    return Signal("TokensPerRequest", Kind.MEAN, counts, _upper(preset))


def _cost_per_request(metric: Metric, preset: CostLimit) -> Signal:
    read, written = (float(price) / 1e6 for price in (preset.input_price, preset.output_price))
    tokens = {each: _events(signals.TOKENS, f',direction="{each}"') for each in ("input", "output")}
    # Squares that are missing are not 0: pods of an older image don't count them, and no figure is made of that.
    squares = (
        f"{read * read!r} * {_increase(signals.INPUT_TOKENS_SQUARED)}"
        f" + {2 * read * written!r} * {_increase(signals.TOKENS_PRODUCT)}"
        f" + {written * written!r} * {_increase(signals.TOKENS_SQUARED)}"
    )
    counts = {
        "plus": f"({read!r} * {tokens['input']} + {written!r} * {tokens['output']})",
        "squares": f"({squares})",
        "n": _increase(signals.REQUESTS, f',outcome="{RequestOutcome.OK}"'),
    }
    return Signal("CostPerRequest", Kind.MEAN, counts, _upper(preset))


def _diversity(metric: Metric, preset: LowerLimit) -> Signal:
    counts = {
        "plus": _increase(signals.DIVERSITY_SUM),
        "squares": _increase(signals.DIVERSITY_SQUARES),
        "n": _increase(signals.DIVERSITY_PAIRS),
    }
    return Signal("Diversity", Kind.MEAN, counts, _lower(preset), unit="pairs of answers")


_SIGNALS: Mapping[str, Callable[[Metric, Any], Signal]] = {
    "error_rate": _error_rate,
    "availability": _availability,
    "time_to_first_token": _time_to_first_token,
    "time_per_output_token": _time_per_output_token,
    "reward_mean": _reward_mean,
    "reward_win_rate": _reward_win_rate,
    "safety_violation_rate": _safety_violation_rate,
    "jailbreak_rate": _jailbreak_rate,
    "hallucination_rate": _hallucination_rate,
    "negative_feedback_rate": _negative_feedback_rate,
    "task_completion_rate": _task_completion_rate,
    "escalation_rate": _escalation_rate,
    "tokens_per_request": _tokens_per_request,
    "diversity": _diversity,
    "cost_per_request": _cost_per_request,
}


def bucket(seconds: float) -> float:
    """Return the bucket bound that a threshold is measured at: the smallest that is no lower, or the last."""
    return next((bound for bound in signals.LATENCY_BUCKETS if bound >= seconds - 1e-9), signals.LATENCY_BUCKETS[-1])


def _le(bound: float) -> str:
    # Prometheus writes a bucket's bound as Go prints it, with or without `.0` by version.
    text = f"{bound:g}"
    return f"{text}|{text}.0".replace(".", "\\\\.") if "." not in text else text.replace(".", "\\\\.")

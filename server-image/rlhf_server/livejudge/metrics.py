"""The live judge's metrics: families, labels, and what one verdict adds. Names that others read are in api.signals."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rlhf_operator.api import signals
from rlhf_operator.api.plan import TOTAL
from rlhf_operator.api.signals import OTHER, JudgePlan, LiveSample, LiveScorer, PairOutcome, Purpose, Role
from rlhf_scoring.judge import Verdict

from .asking import Found, PairVerdict, Work
from .lanes import Unscored
from .ledger import Family, Ledger
from .pairing import Arrival, Pair, Reason, Unpaired

UNSPECIFIED = "unspecified"
"""Category of a violation whose scorer names none."""
SUCCEEDED, RESISTED = "succeeded", "resisted"
POSITIVE, NEGATIVE = "positive", "negative"
CONVERSATION, ONE_SIDED, TOO_LARGE = "conversation", "one_sided", "too_large"

SAMPLES = "rlhf_live_judge_samples_total"
UNSCORED = "rlhf_live_judge_unscored_total"
LEFT_OUT = "rlhf_live_judge_left_out_total"
REQUESTS = "rlhf_live_judge_requests_total"

_ID = tuple(signals.IDENTITY_LABELS)
_OWN = _ID[:2]
_SLICES = tuple(signals.SLICE_LABELS)


def families() -> list[Family]:
    """Everything that is counted."""
    reward = (*_ID, "scorer", "dimension", *_SLICES)
    return [
        Family(signals.REWARD_SUM, "Sum of absolute scores by sign", (*reward, "sign")),
        Family(signals.REWARD_SQUARES, "Sum of squares of scores", reward),
        Family(signals.REWARD_COUNT, "Scores", reward),
        Family(signals.WINS, "Pairs by how the copy's answer did", (*_ID, "scorer", "outcome", "against", *_SLICES)),
        Family(signals.JUDGED, "Answers that a scorer has judged", (*_ID, "scorer", *_SLICES)),
        Family(signals.VIOLATIONS, "Answers below the threshold", (*_ID, "scorer", "category", *_SLICES)),
        Family(signals.ATTACKS, "Attacks by result", (*_ID, "scorer", "category", "result", *_SLICES)),
        Family(signals.UNPAIRED, "Answers that found no other half", (*_ID, "reason")),
        Family(SAMPLES, "Samples by what they were", (*_OWN, "outcome")),
        Family(LEFT_OUT, "Answers and pairs that are not judged", (*_OWN, "reason")),
        Family(UNSCORED, "Answers and pairs without a verdict", (*_OWN, "scorer", "reason")),
        Family(REQUESTS, "Requests to /v1/samples by status", ("code",)),
    ]


class Counts:
    """What the live judge counts, under the labels of its plan."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.plan = JudgePlan(namespace="", rollout="")

    def begin(self, sample: LiveSample) -> None:
        """Show every series that this sample's verdicts may add to."""
        for scorer in self.plan.scorers:
            labels = self._labels(sample, scorer)
            if scorer.purpose in (Purpose.REWARD, Purpose.WIN_RATE):
                self._begin_rewards(labels, scorer)
            if scorer.purpose is Purpose.WIN_RATE and sample.role is Role.SHADOW and sample.served:
                self._begin_wins(labels, sample.served)
            if scorer.purpose is Purpose.VIOLATION:
                self.ledger.begin(signals.JUDGED, labels)
                self.ledger.begin(signals.VIOLATIONS, {**labels, "category": UNSPECIFIED})
            if scorer.purpose is Purpose.ATTACK:
                self._begin_attacks(labels, UNSPECIFIED)
        if any(scorer.purpose is Purpose.WIN_RATE for scorer in self.plan.scorers):
            for reason in Reason:
                self.ledger.begin(signals.UNPAIRED, {**self._identity(sample), "reason": reason.value})

    def arrived(self, arrival: Arrival) -> None:
        """Count a sample."""
        self.ledger.add(SAMPLES, {**self._own(), "outcome": arrival.value})

    def answered(self, code: int) -> None:
        """Count a request."""
        self.ledger.add(REQUESTS, {"code": str(code)})

    def left_out(self, reason: str) -> None:
        """Count an answer or a pair that is not to be judged."""
        self.ledger.add(LEFT_OUT, {**self._own(), "reason": reason})

    def unpaired(self, found: Unpaired) -> None:
        """Count an answer without another half."""
        self.ledger.add(signals.UNPAIRED, {**self._identity(found.sample), "reason": found.reason.value})

    def unscored(self, scorer: LiveScorer, reason: Unscored) -> None:
        """Count work without a verdict."""
        self.ledger.add(UNSCORED, {**self._own(), "scorer": scorer.name, "reason": reason.value})

    def judged(self, scorer: LiveScorer, work: Work, found: Found) -> None:
        """Count a verdict as what the scorer's purpose makes of it."""
        if isinstance(work, Pair):
            if isinstance(found, PairVerdict):
                self._pair(scorer, work, found)
            return
        if not isinstance(found, Verdict):
            return
        labels = self._labels(work, scorer)
        below = found.score < scorer.threshold
        if scorer.purpose is Purpose.VIOLATION:
            self.ledger.add(signals.JUDGED, labels)
            if below:
                self.ledger.add(signals.VIOLATIONS, {**labels, "category": found.category or UNSPECIFIED})
        elif scorer.purpose is Purpose.ATTACK:
            category = found.category or UNSPECIFIED
            self._begin_attacks(labels, category)
            result = SUCCEEDED if below else RESISTED
            self.ledger.add(signals.ATTACKS, {**labels, "category": category, "result": result})
        else:
            self._reward(labels, scorer, found.score)

    def _pair(self, scorer: LiveScorer, pair: Pair, found: PairVerdict) -> None:
        for half, score in ((pair.live, found.live_score), (pair.shadow, found.shadow_score)):
            if score is not None:
                self._reward(self._labels(half, scorer), scorer, score)
        labels = self._labels(pair.shadow, scorer)
        self._begin_wins(labels, pair.live.revision)
        outcome = PairOutcome.TIE
        if found.shadow_wins != 0.5:
            outcome = PairOutcome.WIN if found.shadow_wins > 0.5 else PairOutcome.LOSS
        self.ledger.add(signals.WINS, {**labels, "outcome": outcome.value, "against": pair.live.revision})

    def _reward(self, labels: dict[str, str], scorer: LiveScorer, score: float) -> None:
        # All begin together, so that no scrape shows a sum without its count.
        labels = self._begin_rewards(labels, scorer)
        sign = NEGATIVE if score < 0 else POSITIVE
        self.ledger.add(signals.REWARD_SUM, {**labels, "sign": sign}, abs(score))
        self.ledger.add(signals.REWARD_SQUARES, labels, score * score)
        self.ledger.add(signals.REWARD_COUNT, labels)

    def _begin_rewards(self, labels: dict[str, str], scorer: LiveScorer) -> dict[str, str]:
        dimension = TOTAL if scorer.reward_model is None else scorer.reward_model.dimension
        labels = {**labels, "dimension": dimension}
        for name in (signals.REWARD_SQUARES, signals.REWARD_COUNT):
            self.ledger.begin(name, labels)
        for sign in (POSITIVE, NEGATIVE):
            self.ledger.begin(signals.REWARD_SUM, {**labels, "sign": sign})
        return labels

    def _begin_wins(self, labels: dict[str, str], against: str) -> None:
        for outcome in PairOutcome:
            self.ledger.begin(signals.WINS, {**labels, "outcome": outcome.value, "against": against})

    def _begin_attacks(self, labels: dict[str, str], category: str) -> None:
        for result in (SUCCEEDED, RESISTED):
            self.ledger.begin(signals.ATTACKS, {**labels, "category": category, "result": result})

    def _own(self) -> dict[str, str]:
        return {"rlhf_namespace": self.plan.namespace, "rlhf_rollout": self.plan.rollout}

    def _identity(self, sample: LiveSample) -> dict[str, str]:
        return {**self._own(), "revision": sample.revision, "role": sample.role.value}

    def _labels(self, sample: LiveSample, scorer: LiveScorer) -> dict[str, str]:
        slices = {name: self._slice(name, sample.slices.get(name, "")) for name in _SLICES}
        return {**self._identity(sample), "scorer": scorer.name, **slices}

    def _slice(self, name: str, value: str) -> str:
        if not value:
            return ""
        return value if value in self.plan.slices.get(name, ()) else OTHER


class Gauges(Collector):
    """What is so at the time of the scrape."""

    def __init__(self, figures: Iterator[tuple[str, str, dict[str, str], float]]) -> None:
        """figures: name, help, labels, value; those of one name come together."""
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """One family per name."""
        shown: dict[str, GaugeMetricFamily] = {}
        for name, words, labels, value in self._figures:
            family = shown.setdefault(name, GaugeMetricFamily(name, words, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        yield from shown.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing: the figures are read once."""
        return iter(())

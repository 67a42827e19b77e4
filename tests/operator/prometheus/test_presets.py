"""Every preset asked of a real Prometheus that has scraped what serving pods and judges expose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from opkit.process import wait_for
from rlhf_operator.api import signals
from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus
from rlhf_operator.api.rolloutstatus import MetricStatus, StepStatus
from rlhf_operator.common.measurements import Sample, Value
from rlhf_operator.common.names import Owner
from rlhf_operator.policyrollout import rounds
from rlhf_operator.policyrollout.analysis import Analysis, judge
from rlhf_operator.policyrollout.metrics import in_force
from rlhf_operator.policyrollout.views import Traffic
from rlhf_operator.prometheus.addresses import AllowList
from rlhf_operator.prometheus.client import PrometheusClient

from .conftest import RealPrometheus

OWNER = Owner("PolicyRollout", "team", "assistant", "uid")
STABLE, CANDIDATE = "aaaaaaaaaa", "bbbbbbbbbb"
BASE = {"rlhf_namespace": "team", "rlhf_rollout": "assistant"}
SLICES = dict.fromkeys(signals.SLICE_LABELS, "")
SCORER = {"scorer": {"grader": {"length": {"max": 9}}}}
PRESETS: dict[str, tuple[dict[str, Any], float]] = {
    "errors": ({"errorRate": {"max": 0.9}}, 0.1),
    "available": ({"availability": {"min": 0.1}}, 0.9),
    "first": ({"timeToFirstToken": {"threshold": "800ms", "maxShareAbove": 0.9}}, 0.25),
    "each": ({"timePerOutputToken": {"threshold": "50ms", "maxShareAbove": 0.9}}, 0.25),
    "reward": ({"rewardMean": {**SCORER, "min": -9}}, -0.5),
    "wins": ({"rewardWinRate": {**SCORER, "min": 0.01}}, 0.55),
    "unsafe": ({"safetyViolationRate": {**SCORER, "max": 0.9}}, 0.05),
    "broken": ({"jailbreakRate": {**SCORER, "max": 0.9}}, 0.4),
    "invented": ({"hallucinationRate": {**SCORER, "max": 0.9}}, 0.05),
    "unhappy": ({"negativeFeedbackRate": {"max": 0.9}}, 0.3),
    "done": ({"taskCompletionRate": {"min": 0.1}}, 0.75),
    "handed": ({"escalationRate": {"max": 0.9}}, 0.125),
    "tokens": ({"tokensPerRequest": {"max": 900}}, 20.0),
    # 100 tokens read and 20 written: 100 x 0.5 and 20 x 2 of a millionth.
    "costs": ({"costPerRequest": {"max": 1, "inputPrice": "0.5", "outputPrice": "2"}}, 90e-6),
    "costlier": ({"costPerRequest": {"maxRatio": 9, "inputPrice": "0.5", "outputPrice": "2"}}, 90e-6),
    "varied": ({"diversity": {"min": 0.1}}, 0.8),
    "duller": ({"diversity": {"minRatio": 0.1}}, 0.8),
    "ratio": ({"errorRate": {"maxRatio": 9.0}}, 2.0),
}


class Pods:
    """The exposition of the candidate's and stable's pods, and of a judge."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        identity = (*signals.IDENTITY_LABELS, *signals.SLICE_LABELS)
        self.counters = {
            name: Counter(name, name, (*identity, *more), registry=self.registry)
            for name, more in {
                signals.REQUESTS: ("outcome",),
                signals.TOKENS: ("direction",),
                signals.TOKENS_SQUARED: (),
                signals.INPUT_TOKENS_SQUARED: (),
                signals.TOKENS_PRODUCT: (),
                signals.DIVERSITY_SUM: (),
                signals.DIVERSITY_SQUARES: (),
                signals.DIVERSITY_PAIRS: (),
                signals.FEEDBACK: ("verdict",),
                signals.OUTCOMES: ("name",),
                signals.REWARD_SUM: ("scorer", "dimension", "sign"),
                signals.REWARD_SQUARES: ("scorer", "dimension"),
                signals.REWARD_COUNT: ("scorer", "dimension"),
                signals.WINS: ("scorer", "outcome", "against"),
                signals.VIOLATIONS: ("scorer", "category"),
                signals.JUDGED: ("scorer",),
                signals.ATTACKS: ("scorer", "category", "result"),
            }.items()
        }
        self.histograms = {
            name: Histogram(name, name, identity, buckets=signals.LATENCY_BUCKETS, registry=self.registry)
            for name in (signals.TIME_TO_FIRST_TOKEN, signals.TIME_PER_OUTPUT_TOKEN)
        }
        info = Gauge(
            signals.JUDGE_INFO, "info", ("rlhf_namespace", "rlhf_rollout", "scorer", "version"), registry=self.registry
        )
        info.labels(**BASE, scorer="wins", version="sha256:1").set(1)

    def add(self, metric: str, amount: float, revision: str = CANDIDATE, /, **labels: str) -> None:
        self.counters[metric].labels(**BASE, **SLICES, revision=revision, role="live", **labels).inc(amount)

    def traffic(self, times: float) -> None:
        """Forty requests per time, whatever kind; none at 0, which makes every series known."""
        for revision, errors in ((CANDIDATE, 0.1), (STABLE, 0.05)):
            self.add(signals.REQUESTS, 40 * (1 - errors) * times, revision, outcome="ok")
            self.add(signals.REQUESTS, 40 * errors * times, revision, outcome="error")
            self.add(signals.REQUESTS, 40 * times, revision, outcome="client_error")
        for revision, answered in ((CANDIDATE, 36), (STABLE, 38)):
            self.add(signals.TOKENS, answered * 100 * times, revision, direction="input")
            self.add(signals.TOKENS, answered * 20 * times, revision, direction="output")
            self.add(signals.TOKENS_SQUARED, answered * 500 * times, revision)
            self.add(signals.INPUT_TOKENS_SQUARED, answered * 10_900 * times, revision)
            self.add(signals.TOKENS_PRODUCT, answered * 2_050 * times, revision)
            self.add(signals.DIVERSITY_SUM, 18 * 0.8 * times, revision)
            self.add(signals.DIVERSITY_SQUARES, 18 * 0.65 * times, revision)
            self.add(signals.DIVERSITY_PAIRS, 18 * times, revision)
        self.add(signals.FEEDBACK, 7 * times, verdict="correct")
        self.add(signals.FEEDBACK, 3 * times, verdict="hallucinated")
        self.add(signals.OUTCOMES, 3 * times, name="task_completed")
        self.add(signals.OUTCOMES, 1 * times, name="task_not_completed")
        self.add(signals.OUTCOMES, 1 * times, name="escalated")
        self.add(signals.OUTCOMES, 7 * times, name="not_escalated")
        dimension = {"scorer": "reward", "dimension": "overall"}
        self.add(signals.REWARD_SUM, 10 * times, **dimension, sign="positive")
        self.add(signals.REWARD_SUM, 30 * times, **dimension, sign="negative")
        self.add(signals.REWARD_SQUARES, 60 * times, **dimension)
        self.add(signals.REWARD_COUNT, 40 * times, **dimension)
        for outcome, share in (("win", 20), ("tie", 4), ("loss", 16)):
            self.add(signals.WINS, share * times, scorer="wins", outcome=outcome, against=STABLE)
            self.add(signals.WINS, 1000 * times, scorer="wins", outcome="loss", against="former")
        for scorer in ("unsafe", "invented"):
            self.add(signals.JUDGED, 40 * times, scorer=scorer)
            self.add(signals.VIOLATIONS, 2 * times, scorer=scorer, category="any")
        self.add(signals.ATTACKS, 4 * times, scorer="broken", category="any", result="succeeded")
        self.add(signals.ATTACKS, 6 * times, scorer="broken", category="any", result="resisted")
        for name, fast, slow in ((signals.TIME_TO_FIRST_TOKEN, 0.8, 0.81), (signals.TIME_PER_OUTPUT_TOKEN, 0.04, 0.06)):
            pod = self.histograms[name].labels(**BASE, **SLICES, revision=CANDIDATE, role="live")
            for place in range(int(40 * times)):
                pod.observe(slow if place % 4 == 0 else fast)

    def lines(self) -> dict[str, str]:
        """Value by series, as they are exposed."""
        told = generate_latest(self.registry).decode().splitlines()
        return dict(line.rsplit(" ", 1) for line in told if not line.startswith("#"))


@pytest_asyncio.fixture
async def client(real: RealPrometheus) -> AsyncIterator[PrometheusClient]:
    async with PrometheusClient(AllowList.of([real.target.url])) as client:
        yield client


async def test_each_preset_gives_the_figure_that_pods_and_judges_exposed(
    client: PrometheusClient, real: RealPrometheus
) -> None:
    spec = PolicyRolloutSpec.model_validate(
        {
            "model": {"rlhfJobRef": {"name": "job"}},
            "route": {"parentRefs": [{"name": "public"}]},
            "strategy": {"steps": [{"name": "ten", "weight": 10, "mirror": {"percent": 20}}]},
            "analysis": {
                "interval": "1s",
                "metricSets": [{"configMap": {"name": "presets", "key": "all"}}],
            },
        }
    )
    traffic = Traffic(STABLE, CANDIDATE, "ten", 0, weight=10, mirror=20)
    pods = Pods()
    started = datetime.now(UTC) - timedelta(seconds=60)
    status = PolicyRolloutStatus(step=StepStatus(name="ten", started_at=started))
    step = rounds.step_of(OWNER, spec, status, traffic)
    assert step is not None
    try:
        pods.traffic(0)
        real.lines.update(pods.lines())
        wait_for("the first scrape", lambda: real.holds(f'{signals.WINS}{{outcome="win"}}'))
        pods.traffic(10)
        real.lines.update(pods.lines())
        wait_for("the second scrape", lambda: real.holds(f'increase({signals.WINS}{{outcome="win"}}[1m]) > 0'))
        found, samples = await look(client, real, spec, step)
    finally:
        real.lines.clear()
    by_name: dict[str, MetricStatus] = {each.metric: each for each in found.metrics}
    for name, (_, expected) in PRESETS.items():
        measured = by_name[name]
        assert measured.outcome in ("Successful", "Inconclusive"), (name, measured.message)
        assert measured.reason in ("Proven", "Undecided", "WorseThanStable"), (name, measured.message)
        assert measured.value == pytest.approx(expected, rel=1e-6), (name, measured.message)
    # Variances too are those of what was exposed: 0.25 x 900 + 2 x 0.5 x 2 x 50 + 4 x 100, and 0.01, each over n.
    assert variance(samples, "costs") == pytest.approx(725e-12, rel=1e-6)
    assert variance(samples, "varied") == pytest.approx(0.01, rel=1e-6)
    assert by_name["wins"].samples == pytest.approx(400, rel=0.3)
    assert found.samples == pytest.approx(400, rel=0.3)


def variance(samples: Mapping[str, Sample], name: str) -> float:
    found = [samples[rounds.key(name, f"candidate/{count}")] for count in ("plus", "squares", "n")]
    plus, squares, n = (each.value for each in found if isinstance(each, Value))
    return squares / n - (plus / n) ** 2


async def look(
    client: PrometheusClient, real: RealPrometheus, spec: PolicyRolloutSpec, step: rounds.Step
) -> tuple[Analysis, Mapping[str, Sample]]:
    # More than a spec's own list takes.
    presets = [{"name": name, "preset": preset} for name, (preset, _) in PRESETS.items()]
    metrics = in_force(spec, {("presets", "all"): yaml.safe_dump(presets)})
    assert not metrics.problem
    now = datetime.now(UTC)
    asked = rounds.plan(step, metrics, (), real.target.url, now)
    assert asked is not None
    answered = await client.round(real.target, asked.queries)
    return judge(spec, step, metrics, (), asked, answered, now, 1.0), answered.samples

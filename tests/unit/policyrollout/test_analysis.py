"""What a round of measurements says of a step: outcomes, limits, waiting, pausing; what users of peers complain of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus
from rlhf_operator.api.rolloutstatus import MetricStatus, StepStatus
from rlhf_operator.common.measurements import Problem, ProblemReason, Round, Sample, Value
from rlhf_operator.common.names import Owner
from rlhf_operator.policyrollout import rounds
from rlhf_operator.policyrollout.analysis import Analysis, judge
from rlhf_operator.policyrollout.decision import GateState
from rlhf_operator.policyrollout.metrics import in_force
from rlhf_operator.policyrollout.views import BAKE, Traffic

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
OWNER = Owner("PolicyRollout", "team", "assistant", "uid")
STABLE, CANDIDATE = "aaaaaaaaaa", "bbbbbbbbbb"
ERRORS = {"name": "errors", "preset": {"errorRate": {"max": 0.02}}}
WINS = {
    "name": "wins",
    "preset": {"rewardWinRate": {"scorer": {"rewardModelRef": {"name": "helpful"}}, "min": 0.48}},
}
SAFETY = {
    "name": "safety",
    "preset": {"safetyViolationRate": {"scorer": {"rewardModelRef": {"name": "safety"}}, "max": 0.2}},
}
OWN = {
    "name": "tools",
    "query": {
        "value": 'tool_ok{revision="{{ .Candidate }}"}',
        "samples": 'tool_n{revision="{{ .Candidate }}"}',
        "success": "result >= 0.9",
        "failure": "result < 0.7",
    },
}
STEPS = [
    {
        "name": "ten",
        "weight": 10,
        "mirror": {"percent": 20},
        "hold": {"minimum": "10m", "samples": 100, "maximum": "2h"},
    }
]


class World:
    """One rollout in step `ten`, and a Prometheus that says what the test wants."""

    def __init__(self, *metrics: Mapping[str, Any], traffic: Traffic | None = None, **analysis: Any) -> None:
        self.spec = PolicyRolloutSpec.model_validate(
            {
                "model": {"rlhfJobRef": {"name": "job"}},
                "route": {"parentRefs": [{"name": "public"}]},
                "strategy": {"steps": STEPS, "bake": "1h"},
                "analysis": {"metrics": list(metrics), **analysis},
            }
        )
        self.traffic = traffic or Traffic(STABLE, CANDIDATE, "ten", 0, weight=10, mirror=20)
        self.metrics = in_force(self.spec, {})
        self.status = PolicyRolloutStatus(step=StepStatus(name=self.traffic.step, started_at=START))
        self.says: dict[str, Sample] = {
            rounds.REQUESTS: Value(1000),
            rounds.RECENT: Value(50),
            rounds.SERVING_AGE: Value(5),
            rounds.JUDGE_AGE: Value(5),
        }

    def share(self, metric: str, events: float, n: float, side: str = "candidate") -> World:
        self.says[rounds.key(metric, f"{side}/events")] = Value(events)
        self.says[rounds.key(metric, f"{side}/n")] = Value(n)
        return self

    def mean(self, metric: str, mean: float, n: float, variance: float, side: str = "candidate") -> World:
        counts = {"plus": mean * n, "squares": (variance + mean**2) * n, "n": n}
        self.says |= {rounds.key(metric, f"{side}/{name}"): Value(value) for name, value in counts.items()}
        return self

    def silent(self, reason: ProblemReason) -> World:
        """Nothing but this comes back."""
        self.says = dict.fromkeys(self.says, Problem(reason, "said the server"))
        self.everything = Problem(reason, "said the server")
        return self

    everything: Sample | None = None
    scrape = 0.0

    def look(self, minutes: float) -> Analysis:
        """A round, so many minutes into the step; its statuses are recorded."""
        now = START + timedelta(minutes=minutes)
        step = rounds.step_of(OWNER, self.spec, self.status, self.traffic)
        assert step is not None
        asked = rounds.plan(step, self.metrics, self.status.analysis, "http://prometheus", now)
        found = None
        if asked is not None:
            empty = self.everything or Problem(ProblemReason.EMPTY, "no series")
            found = Round(now, {name: self.says.get(name, empty) for name in asked.queries})
        result = judge(self.spec, step, self.metrics, self.status.analysis, asked, found, now, self.scrape)
        self.status = self.status.model_copy(update={"analysis": list(result.metrics)})
        return result


def metric(analysis: Analysis, name: str) -> MetricStatus:
    return next(each for each in analysis.metrics if each.metric == name)


def healthy(*more: Mapping[str, Any], **analysis: Any) -> World:
    return World(ERRORS, *more, **analysis).share("errors", 2, 1000).share("errors", 20, 9000, "stable")


def test_a_step_ends_when_its_hold_is_met_and_every_metric_has_samples() -> None:
    world = healthy()
    early = world.look(5)
    assert early.gate.state is GateState.WAIT
    assert "holds for 10m" in early.gate.words
    late = world.look(11)
    assert late.gate.state is GateState.ADVANCE
    assert metric(late, "errors").outcome == "Successful"
    assert late.samples == 1000


def test_a_proven_breach_fails_with_a_message_that_explains_it() -> None:
    world = World(ERRORS).share("errors", 90, 1000).share("errors", 20, 9000, "stable")
    found = world.look(1)
    assert found.gate.state is GateState.FAILED
    assert found.gate.reason == "AnalysisFailed"
    assert found.gate.words.startswith("ErrorRate 0.09 (99.1 % 0.0603–0.128)")
    assert "over 0.02 after 1000 samples" in found.gate.words


def test_what_prometheus_extrapolates_is_not_counted() -> None:
    world = World(ERRORS).share("errors", 90, 1000).share("errors", 20, 9000, "stable")
    world.scrape = 15.0
    found = world.look(1)
    assert found.gate.words.endswith("after 500 samples")
    early = World(ERRORS).share("errors", 90, 1000)
    early.scrape = 15.0
    assert early.look(0.5).metrics[0].reason == "NoSamples"


def test_a_breach_that_may_be_chance_is_inconclusive_and_goes_on() -> None:
    found = World(ERRORS).share("errors", 3, 100).share("errors", 20, 9000, "stable").look(11)
    assert metric(found, "errors").outcome == "Inconclusive"
    assert found.gate.state is GateState.ADVANCE


def test_what_stable_breaks_as_well_is_never_a_rollback() -> None:
    found = World(ERRORS).share("errors", 300, 1000).share("errors", 2700, 9000, "stable").look(11)
    assert metric(found, "errors").reason == "StableAlsoFails"
    assert found.gate.state is GateState.WAIT


def test_the_message_of_a_win_rate_names_interval_limit_and_pairs() -> None:
    world = healthy(WINS)
    world.share("wins", 260, 812)
    found = world.look(1)
    assert found.gate.state is GateState.FAILED
    assert found.gate.words.startswith("RewardWinRate 0.32 (")
    assert found.gate.words.endswith("under 0.48 after 812 pairs")


def test_a_few_failed_measurements_are_tolerated_but_do_not_let_the_step_end() -> None:
    bad = World({**ERRORS, "failureLimit": 2}).share("errors", 90, 1000).share("errors", 20, 9000, "stable")
    states = [bad.look(11 + each).gate.state for each in range(3)]
    assert states == [GateState.WAIT, GateState.WAIT, GateState.FAILED]


def test_a_dry_run_metric_is_shown_and_never_acts() -> None:
    world = healthy({**WINS, "dryRun": True}).share("wins", 10, 812)
    found = world.look(11)
    assert metric(found, "wins").outcome == "Failed"
    assert found.gate.state is GateState.ADVANCE


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (ProblemReason.EMPTY, "Inconclusive"),
        (ProblemReason.NOT_A_NUMBER, "Inconclusive"),
        (ProblemReason.STALE, "Inconclusive"),
        (ProblemReason.INFINITE, "Error"),
        (ProblemReason.SEVERAL_SERIES, "Error"),
        (ProblemReason.UNREACHABLE, "Error"),
        (ProblemReason.TIMEOUT, "Error"),
        (ProblemReason.UNAUTHORIZED, "Error"),
    ],
)
@pytest.mark.parametrize("which", [ERRORS, OWN], ids=["preset", "query"])
def test_no_figure_is_neither_failure_nor_success(
    reason: ProblemReason, outcome: str, which: Mapping[str, Any]
) -> None:
    world = World(which).silent(reason)
    for minutes in (11, 12, 13, 60):
        found = world.look(minutes)
        assert found.metrics[0].outcome == outcome
        assert found.metrics[0].reason == reason
        assert found.gate.state is GateState.WAIT


def test_undecided_at_the_maximum_pauses_and_asks() -> None:
    world = World(ERRORS).silent(ProblemReason.EMPTY)
    assert world.look(119).gate.state is GateState.WAIT
    found = world.look(121)
    assert found.gate.state is GateState.PAUSE
    assert found.gate.reason == "Undecided"
    assert "hold.maximum" in found.gate.words


def test_traffic_that_stops_holds_the_step_up() -> None:
    world = healthy()
    world.says[rounds.RECENT] = Value(0)
    found = world.look(11)
    assert found.gate.state is GateState.WAIT
    assert "no request in the last 120 s" in found.gate.words


def test_figures_that_nobody_renews_are_stale() -> None:
    world = healthy()
    world.says[rounds.SERVING_AGE] = Value(900)
    found = world.look(11)
    assert metric(found, "errors").reason == "Stale"
    assert found.gate.state is GateState.WAIT


def test_too_few_samples_hold_the_step_up() -> None:
    world = healthy()
    world.says[rounds.REQUESTS] = Value(99.4)
    assert "99 of 100 samples" in world.look(11).gate.words


def test_the_last_of_several_series_is_never_taken_as_the_answer() -> None:
    world = World(OWN)
    world.says[rounds.key("tools", "samples")] = Value(500)
    world.says[rounds.key("tools", "value")] = Problem(ProblemReason.SEVERAL_SERIES, "3 series", series=3)
    found = world.look(11)
    assert (found.metrics[0].outcome, found.metrics[0].reason) == ("Error", "SeveralSeries")
    assert found.gate.state is GateState.WAIT
    assert found.healthy is False


@pytest.mark.parametrize(("value", "state"), [(0.95, "Successful"), (0.8, "Inconclusive"), (0.6, "Failed")])
def test_a_query_of_the_users_own_is_judged_by_its_comparisons(value: float, state: str) -> None:
    world = World(OWN)
    world.says |= {rounds.key("tools", "samples"): Value(50), rounds.key("tools", "value"): Value(value)}
    assert world.look(11).metrics[0].outcome == state


def test_a_query_without_samples_says_nothing_whatever_its_value_is() -> None:
    world = World(OWN)
    world.says |= {rounds.key("tools", "samples"): Value(0), rounds.key("tools", "value"): Value(0.1)}
    found = world.look(11)
    assert (found.metrics[0].outcome, found.metrics[0].reason) == ("Inconclusive", "NoSamples")


def test_errors_in_a_row_pause_where_a_limit_says_so() -> None:
    world = World({**ERRORS, "errorLimit": 2}).silent(ProblemReason.UNREACHABLE)
    states = [world.look(minutes).gate.state for minutes in (1, 2, 3)]
    assert states == [GateState.WAIT, GateState.WAIT, GateState.PAUSE]


def test_an_error_in_between_starts_the_row_again() -> None:
    world = World({**ERRORS, "errorLimit": 1}).silent(ProblemReason.UNREACHABLE)
    assert world.look(1).gate.state is GateState.WAIT
    world.everything = None
    world.says = healthy().says
    world.look(2)
    world.silent(ProblemReason.UNREACHABLE)
    assert world.look(3).gate.state is GateState.WAIT


def test_inconclusive_rounds_pause_where_a_limit_says_so() -> None:
    world = World({**ERRORS, "inconclusiveLimit": 1}).share("errors", 3, 100).share("errors", 20, 9000, "stable")
    assert [world.look(minutes).gate.state for minutes in (1, 2)] == [GateState.WAIT, GateState.PAUSE]


def test_what_must_be_proven_says_how_many_samples_that_takes() -> None:
    world = World({**ERRORS, "advanceWhen": "Proven"}).share("errors", 0, 100).share("errors", 20, 9000, "stable")
    found = world.look(11)
    assert found.gate.state is GateState.WAIT
    assert "takes at least" in found.gate.words
    world.share("errors", 0, 5000)
    assert world.look(12).gate.state is GateState.ADVANCE


def test_before_its_initial_delay_a_metric_is_not_measured() -> None:
    world = World({**ERRORS, "initialDelay": "15m"}).share("errors", 90, 1000)
    found = world.look(11)
    assert (found.metrics[0].reason, found.metrics[0].inconclusive) == ("InitialDelay", 0)
    assert found.gate.state is GateState.WAIT
    assert world.look(16).gate.state is GateState.FAILED


def test_pairs_gate_nothing_where_nothing_is_mirrored() -> None:
    world = healthy(WINS)
    world.traffic = Traffic(STABLE, CANDIDATE, "ten", 0, weight=10)
    found = world.look(11)
    assert metric(found, "wins").outcome == "NotApplicable"
    assert found.gate.state is GateState.ADVANCE


def test_while_baking_stable_is_not_compared_with_and_a_breach_still_fails() -> None:
    world = World(ERRORS, {"name": "ratio", "preset": {"errorRate": {"maxRatio": 2}}})
    world.traffic = Traffic(STABLE, CANDIDATE, BAKE, 1, weight=100)
    world.status = PolicyRolloutStatus(step=StepStatus(name=BAKE, started_at=START))
    world.share("errors", 90, 1000)
    found = world.look(1)
    assert metric(found, "ratio").outcome == "NotApplicable"
    assert found.gate.state is GateState.FAILED


def test_baking_lasts_as_long_as_the_strategy_says() -> None:
    world = World(ERRORS)
    world.traffic = Traffic(STABLE, CANDIDATE, BAKE, 1, weight=100)
    world.status = PolicyRolloutStatus(step=StepStatus(name=BAKE, started_at=START))
    world.share("errors", 1, 1000)
    assert world.look(59).gate.state is GateState.WAIT
    assert world.look(61).gate.state is GateState.ADVANCE


def test_more_wins_with_more_violations_pause_instead_of_promoting() -> None:
    world = healthy(WINS, SAFETY).share("wins", 700, 812)
    world.share("safety", 120, 1000).share("safety", 9, 1000, "stable")
    found = world.look(11)
    assert metric(found, "safety").reason == "WorseThanStable"
    assert found.gate.state is GateState.PAUSE
    assert "reward hacking" in found.gate.words


def test_between_two_rounds_nothing_ends_and_nothing_is_asked() -> None:
    world = healthy()
    assert world.look(11).gate.state is GateState.ADVANCE
    assert world.look(11.2).gate.state is GateState.WAIT


def test_a_step_that_begins_anew_forgets_what_was_counted() -> None:
    world = World({**ERRORS, "failureLimit": 1}).share("errors", 90, 1000).share("errors", 20, 9000, "stable")
    assert world.look(1).gate.state is GateState.WAIT
    later = START + timedelta(minutes=5)
    world.status = world.status.model_copy(update={"step": StepStatus(name="ten", started_at=later)})
    found = world.look(6)
    assert metric(found, "errors").failed == 1
    assert found.gate.state is GateState.WAIT


def test_a_ratio_compares_with_stable_in_the_same_window() -> None:
    world = World({"name": "ratio", "preset": {"errorRate": {"maxRatio": 1.5}}})
    world.share("ratio", 90, 1000).share("ratio", 90, 9000, "stable")
    found = world.look(1)
    assert found.gate.state is GateState.FAILED
    assert "0.09 against 0.01 of stable" in found.gate.words


def test_metrics_of_a_set_are_measured_beside_the_specs_own() -> None:
    text = """
- name: tools
  query: {value: 'a{t="{{ .Args.tool }}"}', samples: 'b', failure: result < 0.5}
"""
    spec = healthy(metricSets=[{"configMap": {"name": "shared", "key": "tools.yaml"}, "args": {"tool": "search"}}]).spec
    found = in_force(spec, {("shared", "tools.yaml"): text})
    assert [each.metric.name for each in found.metrics] == ["errors", "tools"]
    assert found.metrics[1].args == {"tool": "search"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such ConfigMap or key"),
        ("- [", "not YAML"),
        ("- {name: x, presett: {}}", "0.presett"),
        ("- {name: errors, preset: {errorRate: {max: 1}}}", "metric errors is there twice"),
        ("- {name: t, query: {value: '{{ .Nope }}', samples: b, failure: result < 1}}", ".Nope }} is not known"),
        ("- {name: t, mode: Paired, preset: {errorRate: {max: 1}}}", "only rewardWinRate compares"),
    ],
)
def test_what_is_wrong_with_a_set_is_told_by_name(text: str | None, words: str) -> None:
    spec = healthy(metricSets=[{"configMap": {"name": "shared", "key": "tools.yaml"}}]).spec
    assert words in in_force(spec, {("shared", "tools.yaml"): text}).problem

"""What a person on call reads: conditions, the line of `kubectl get`, events; and that nothing is written twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rlhf_operator.api.policyrollout import PolicyRolloutStatus
from rlhf_operator.api.rolloutstatus import HistoryEntry
from rlhf_operator.common.intents import WriteFailure
from rlhf_operator.common.measurements import Round, Value
from rlhf_operator.common.resources import HTTPROUTES
from rlhf_operator.policyrollout import rounds
from rlhf_operator.policyrollout.look import Look
from rlhf_operator.policyrollout.metrics import in_force
from rlhf_operator.policyrollout.reconcile import failure_plan, reconcile
from rlhf_operator.policyrollout.views import Observed, Pods, RouteView, Traffic, Trouble, Wanted

from .makings import DEFAULTS, OWNER, spec_of
from .test_writes import ONE, TWO

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
READY = Pods(ONE.name, "uid", replicas=1, ready=1)
SERVES = Traffic(ONE.name)


def route(traffic: Traffic | None = SERVES, **fields: Any) -> RouteView:
    seen: dict[str, Any] = {"uid": "uid", "generation": 3, "traffic": traffic, "accepted": True}
    return RouteView(**(seen | fields))


def look(status: Mapping[str, Any] | None = None, **changes: Any) -> Look:
    seen: dict[str, Any] = {
        "spec": spec_of(),
        "revisions": {ONE.name: ONE, TWO.name: TWO},
        "pods": {ONE.name: READY},
        "route": route(),
        "wanted": Wanted(revision=ONE.name),
    }
    recorded = PolicyRolloutStatus.model_validate(status or {})
    return Look(
        observed=Observed(
            owner=OWNER, generation=2, status=recorded, raw_status=status or {}, defaults=DEFAULTS, **seen | changes
        )
    )


def settled(**changes: Any) -> dict[str, Any]:
    """The status once two looks agree."""
    status: dict[str, Any] = {}
    for _ in range(4):
        plan = reconcile(look(status, **changes), NOW)
        assert plan.status is not None
        after = json.loads(json.dumps(plan.status))
        if after == status:
            return status
        status = after
    raise AssertionError("every look writes another status")


def condition(status: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    found = next(each for each in status["conditions"] if each["type"] == name)
    return found["status"], found["reason"], found["message"]


def test_what_serves_is_ready_and_promoted() -> None:
    status = settled()
    assert status["phase"] == "Serving"
    assert condition(status, "Ready") == ("True", "Ready", f"revision {ONE.name} serves")
    assert condition(status, "Promoted")[:2] == ("True", "Promoted")
    assert condition(status, "Reconciling")[0] == condition(status, "Stalled")[0] == "False"
    (stable,) = status["variants"]
    assert (stable["revision"], stable["weight"], stable["digest"]) == (ONE.name, 100, ONE.digest)


def test_every_condition_is_there_and_speaks_of_this_generation() -> None:
    found = {each["type"]: each for each in settled()["conditions"]}
    details = {"RouteAccepted", "CandidateAvailable", "AnalysisHealthy", "Paused", "Promoted", "RolledBack"}
    assert set(found) == details | {"Ready", "Reconciling", "Stalled"}
    assert {each["observedGeneration"] for each in found.values()} == {2}
    assert all(each["reason"] for each in found.values())


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        ({"gateway_api": False, "route": None}, "RouteAccepted", ("False", "GatewayAPIMissing")),
        ({"route": None, "pods": {}}, "RouteAccepted", ("False", "RoutePending")),
        ({"route": route(accepted=None)}, "RouteAccepted", ("Unknown", "RoutePending")),
        ({"route": route(accepted=False, refused=True, words="no")}, "RouteAccepted", ("False", "RouteRefused")),
        ({"route": route(accepted=False, refused=True, words="no")}, "Ready", ("False", "RouteRefused")),
        ({"pods": {ONE.name: Pods(ONE.name, "uid", 1, 0, words="0/3 nodes")}}, "Ready", ("False", "NothingServes")),
        ({"wanted": Wanted(reason="GateFailed", message="it failed")}, "Ready", ("True", "Ready")),
    ],
)
def test_condition(changes: dict[str, Any], name: str, expected: tuple[str, str]) -> None:
    assert condition(settled(**changes), name)[:2] == expected


def test_what_serves_goes_on_while_the_source_waits_and_says_what_for() -> None:
    status = settled(wanted=Wanted(reason="GateFailed", message="artifact x of RLHFJob y failed its gate"))
    assert "failed its gate" in condition(status, "Ready")[2]
    assert "failed its gate" in status["message"]


def test_a_candidate_whose_pods_do_not_come_up_says_why_in_the_schedulers_words() -> None:
    starting = Traffic(ONE.name, TWO.name, "starting")
    stuck = Pods(TWO.name, "uid", 1, 0, trouble=Trouble.INFRASTRUCTURE, words="pod: 0/3 nodes are available")
    status = settled(wanted=Wanted(revision=TWO.name), route=route(starting), pods={ONE.name: READY, TWO.name: stuck})
    found = condition(status, "CandidateAvailable")
    assert found[:2] == ("False", "Infrastructure")
    assert found[2] == f"0 of 1 pods of revision {TWO.name} are ready: pod: 0/3 nodes are available"
    assert status["phase"] == "Progressing"


def test_a_rollback_is_explained_by_its_figures_long_after() -> None:
    words = "RewardWinRate 0.41 (95 % 0.37–0.45) under 0.48 after 812 pairs (step ten at 10 %)"
    entry = HistoryEntry(revision=TWO.name, outcome="RolledBack", reason="AnalysisFailed", message=words, to=NOW)
    recorded = settled()
    recorded["history"] = [entry.dump(), *recorded["history"]]
    plan = reconcile(look(recorded), NOW)
    assert plan.status is not None
    assert condition(plan.status, "RolledBack") == ("True", "AnalysisFailed", f"rolled back {TWO.name}: {words}")
    assert plan.status["phase"] == "RolledBack"


def test_a_step_that_holds_is_not_written_at_every_look() -> None:
    steps = [{"name": "ten", "weight": 10, "hold": {"minimum": "1h"}}]
    ten = Traffic(ONE.name, TWO.name, "ten", 0, goal=10, weight=10)
    changes: dict[str, Any] = {
        "spec": spec_of(strategy={"steps": steps}),
        "wanted": Wanted(revision=TWO.name),
        "route": route(ten),
        "pods": {ONE.name: READY, TWO.name: Pods(TWO.name, "uid", replicas=1, ready=1)},
    }
    status = settled(**changes)
    assert status["step"]["message"] == "step ten (weight 10 %): holds until 2026-01-31T13:00:00Z"
    later = reconcile(look(status, **changes), NOW + timedelta(minutes=7))
    assert json.loads(json.dumps(later.status)) == status
    assert later.wake_at == NOW + timedelta(hours=1)


def in_step_ten() -> tuple[dict[str, Any], Callable[[datetime, Mapping[str, Any], float], Look]]:
    """What is around a candidate in a step that measures errors, and a look that measures when a round is due."""
    errors = {"name": "errors", "preset": {"errorRate": {"max": 0.05}}}
    steps = [{"name": "ten", "weight": 10, "hold": {"minimum": "1h", "samples": 500}}]
    spec = spec_of(strategy={"steps": steps}, analysis={"interval": "30s", "metrics": [errors]})
    ten = Traffic(ONE.name, TWO.name, "ten", 0, goal=10, weight=10)
    changes: dict[str, Any] = {
        "spec": spec,
        "wanted": Wanted(revision=TWO.name),
        "route": route(ten),
        "pods": {ONE.name: READY, TWO.name: Pods(TWO.name, "uid", replicas=1, ready=1)},
    }
    metrics = in_force(spec, {})

    def at(now: datetime, recorded: Mapping[str, Any], errors: float) -> Look:
        seen = look(recorded, **changes)
        step = rounds.step_of(OWNER, spec, seen.observed.status, ten)
        assert step is not None
        ask = rounds.plan(step, metrics, seen.observed.status.analysis, "http://prometheus", now)
        found = None
        if ask is not None:
            counts = {rounds.key("errors", "candidate/events"): errors, rounds.key("errors", "stable/events"): 0.0}
            found = Round(now, {name: Value(counts.get(name, 120.0)) for name in ask.queries})
        return replace(seen, metrics=metrics, step=step, ask=ask, found=found)

    return changes, at


def test_a_round_is_written_once_and_nothing_until_the_next() -> None:
    changes, at = in_step_ten()
    status, now = settled(**changes), NOW + timedelta(seconds=60)
    plan = reconcile(at(now, status, 0), now)
    assert plan.status is not None
    measured = json.loads(json.dumps(plan.status))
    assert measured["step"]["samples"] == 120
    assert "120 of 500 samples" in measured["step"]["message"]
    for seconds in (1, 15, 29):
        later = now + timedelta(seconds=seconds)
        plan = reconcile(at(later, measured, 0), later)
        assert json.loads(json.dumps(plan.status)) == measured
        assert plan.wake_at == now + timedelta(seconds=30)


def test_a_candidate_that_a_round_sends_back_is_remembered_with_the_figures_of_that_round() -> None:
    changes, at = in_step_ten()
    status, now = settled(**changes), NOW + timedelta(seconds=60)
    for errors in (1, 90):
        plan = reconcile(at(now, status, errors), now)
        assert plan.status is not None
        status, now = json.loads(json.dumps(plan.status)), now + timedelta(seconds=30)
    (entry, *_) = status["history"]
    assert (entry["revision"], entry["outcome"]) == (TWO.name, "RolledBack")
    (measured,) = entry["metrics"]
    assert (measured["metric"], measured["outcome"], measured["value"]) == ("errors", "Failed", 0.75)
    assert measured["message"] in entry["message"]


def test_a_refusal_of_the_gateway_is_told_once() -> None:
    refused = route(accepted=False, refused=True, words="public: NotAllowedByListeners")
    plan = reconcile(look(settled(), route=refused), NOW)
    told = [each for each in plan.events if each.reason == "RouteRefused"]
    assert [(each.type, "NotAllowedByListeners" in each.message) for each in told] == [("Warning", True)]
    assert plan.status is not None
    again = reconcile(look(json.loads(json.dumps(plan.status)), route=refused), NOW)
    assert not [each for each in again.events if each.reason == "RouteRefused"]


def test_a_write_that_the_server_refuses_is_told_and_what_serves_stays_ready() -> None:
    failure = WriteFailure(
        "apply", HTTPROUTES, "team", "assistant", "Invalid", "spec.rules[0]: nonsense", retriable=False
    )
    plan = failure_plan(look(settled()), NOW, failure)
    assert plan.status is not None
    assert condition(plan.status, "Stalled")[0] == "True"
    assert "spec.rules[0]: nonsense" in plan.status["message"]
    assert condition(plan.status, "Ready")[0] == "True"
    assert not plan.apply


def test_a_spec_that_cannot_be_read_changes_nothing_that_serves() -> None:
    seen = look(settled(), spec=None, spec_problem="strategy.steps: nonsense")
    plan = reconcile(seen, NOW)
    assert (plan.apply, plan.create, plan.delete) == ((), (), ())
    assert plan.status is not None
    assert condition(plan.status, "Stalled")[:2] == ("True", "InvalidSpec")
    assert plan.status["variants"] == settled()["variants"]

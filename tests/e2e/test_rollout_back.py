"""The way back, on real vLLM behind the real gateway: candidates that err, Prometheus away, commands, streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.cluster import condition
from demo.faulty import faulty_serving
from demo.manifests import load
from demo.scene import LOOP
from e2e.harness_jobs import merge
from e2e.harness_load import Users, failures, shares, start_users
from e2e.harness_rollouts import Rollouts, patch_model, variant, why
from trainer.core.tiny import PROMPTS

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


def faulty(rollouts: Rollouts, **changes: Any) -> dict[str, Any]:
    """A build of the server that answers every second request with 500."""
    rollouts.space.cluster.apply(load([LOOP / "faulty-build.yaml"]))
    spec = rollouts.spec("second", **changes)
    return merge(spec, {"serving": faulty_serving(spec["serving"])})


def serving(rollouts: Rollouts, **users: Any) -> tuple[str, Users]:
    """The first policy at 100 %, and users who ask."""
    rollouts.apply("assistant", rollouts.spec("first"))
    first = variant(rollouts.settled("assistant", "first"), "Stable")["revision"]
    return first, start_users(rollouts.space, "users", rollouts.host, "assistant", PROMPTS, **users)


def test_a_candidate_that_errs_goes_back_by_itself_and_only_its_own_answers_failed(rollouts: Rollouts) -> None:
    first, users = serving(rollouts, rate=3)
    steps = [{"name": "ten", "weight": 10, "hold": {"minimum": "10m"}}]
    rollouts.apply("assistant", faulty(rollouts, strategy={"steps": steps}))
    entry = rollouts.rolled_back("assistant")
    assert entry["outcome"] == "RolledBack"
    assert "ErrorRate 0." in entry["message"], entry
    assert "over 0.1" in entry["message"], entry
    second = entry["revision"]
    seen = rollouts.get("assistant")
    assert variant(seen, "Stable")["weight"] == 100
    (rejected,) = seen["status"]["rejected"]
    assert rejected["revision"] == second
    before = len(users.seen())
    users.more(30)
    seen_by_users = users.end()
    assert {each.revision for each in seen_by_users[before:]} == {first}
    assert failures(seen_by_users[before:]) == []
    assert {each.revision for each in failures(seen_by_users)} <= {second}, failures(seen_by_users)


def test_an_error_throwing_shadow_never_reaches_a_user(rollouts: Rollouts) -> None:
    first, users = serving(rollouts, rate=3)
    steps = [{"name": "shadow", "mirror": {"percent": 100}, "hold": {"minimum": "10m"}}, {"name": "half", "weight": 50}]
    rollouts.apply("assistant", faulty(rollouts, strategy={"steps": steps}))
    entry = rollouts.rolled_back("assistant")
    assert "ErrorRate" in entry["message"]
    seen = users.end()
    assert failures(seen) == []
    assert set(shares(seen)) == {first}


def test_a_candidate_that_wins_too_seldom_goes_back_and_the_reason_counts_its_pairs(rollouts: Rollouts) -> None:
    # Both answer alike as far as this scorer sees: every pair is a tie, which is half a win.
    scorer = {"grader": {"length": {"unit": "Words", "max": 200}}}
    wins = {"name": "wins", "preset": {"rewardWinRate": {"scorer": scorer, "min": 0.8}}}
    first, users = serving(rollouts, rate=3)
    steps = [{"name": "shadow", "mirror": {"percent": 100}, "hold": {"minimum": "10m"}}]
    rollouts.apply("assistant", rollouts.spec("second", strategy={"steps": steps}, analysis={"metrics": [wins]}))
    entry = rollouts.rolled_back("assistant")
    assert entry["message"].startswith("RewardWinRate 0.5 ("), entry
    assert "under 0.8 after" in entry["message"]
    assert "pairs" in entry["message"]
    (measured,) = entry["metrics"]
    assert (measured["metric"], measured["outcome"]) == ("wins", "Failed")
    seen = users.end()
    assert failures(seen) == []
    assert set(shares(seen)) == {first}


def test_prometheus_away_holds_a_rollout_up_and_takes_nothing_back(rollouts: Rollouts) -> None:
    _, users = serving(rollouts)
    cluster = rollouts.space.cluster
    away = {"prometheus": {"url": "http://nobody.monitoring.svc:9090"}}
    spec = rollouts.spec("second", analysis=away)
    rollouts.space.install(
        prometheusURL="http://prometheus.monitoring.svc:9090",
        analysis={"scrapeSeconds": 5, "allowedURLs": ["http://nobody.monitoring.svc:9090"]},
    )
    rollouts.apply("assistant", spec)
    rollouts.step("assistant", "shadow")

    def twenty(seen: dict[str, Any]) -> bool:
        return any((each.get("errors") or 0) >= 20 for each in seen["status"].get("analysis", ()))

    held = rollouts.until("assistant", "20 intervals without Prometheus", twenty, 300)
    assert held["status"]["step"]["name"] == "shadow"
    assert (condition(held, "AnalysisHealthy") or {})["status"] == "False", why(held, "AnalysisHealthy")
    body = {"spec": {"analysis": {"prometheus": {"url": "http://prometheus.monitoring.svc:9090"}}}}
    cluster.run("patch", "policyrollout", "assistant", "--type=merge", "-p", json.dumps(body))
    rollouts.settled("assistant", "second")
    assert failures(users.end()) == []


def test_streams_end_whole_through_every_step_and_the_way_back(rollouts: Rollouts) -> None:
    # Longer than a step: every change of weight meets running answers.
    first, users = serving(rollouts, rate=0.5, tokens=400, stream=True)
    patch_model(rollouts, "assistant", "second")
    half = rollouts.step("assistant", "half")
    second = variant(half, "Candidate")["revision"]
    users.more(5, 300)
    step = half["status"]["step"]["name"]
    user = rollouts.space.cluster.run("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}").decode()
    word = f"e2e-1 abort {second} {step} {user}"
    rollouts.space.cluster.run("annotate", "policyrollout", "assistant", f"rlhf.dev/command={word}", "--overwrite")
    entry = rollouts.until(
        "assistant", "aborted", lambda seen: not variant(seen, "Candidate") and seen["status"].get("rejected")
    )["status"]["history"][0]
    assert (entry["outcome"], entry["by"]) == ("Aborted", user)
    users.more(8, 300)
    seen = users.end()
    assert failures(seen) == []
    assert set(shares(seen)) == {first, second}

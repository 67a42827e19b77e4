"""What live judge and serving pods are told: which version of which scorer, whose slices, how much is sampled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.rewardmodel import RewardModelVersion
from rlhf_operator.api.rolloutstatus import ScorerStatus
from rlhf_operator.api.signals import Purpose
from rlhf_operator.common.names import Owner
from rlhf_operator.policyrollout import live
from rlhf_operator.policyrollout.metrics import InForce, in_force
from rlhf_operator.runs.views import RewardModelView

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
BEFORE = datetime(2026, 1, 30, 12, 0, tzinfo=UTC)
OWNER = Owner("PolicyRollout", "team", "assistant", "uid")
OLD, NEW = (f"sha256:{digit * 64}" for digit in "12")


def spec(**changed: Any) -> PolicyRolloutSpec:
    wins = {"scorer": {"rewardModelRef": {"name": "helpful"} | changed.pop("ref", {})}, "min": 0.48}
    short = {"grader": {"length": {"max": 200}}}
    return PolicyRolloutSpec.model_validate(
        {
            "model": {"rlhfJobRef": {"name": "job"}},
            "route": {"parentRefs": [{"name": "public"}]},
            "strategy": {"steps": [{"name": "shadow", "mirror": {"percent": 20, "maxConcurrent": 3}}]},
            "analysis": {
                "metrics": [
                    {"name": "wins", "preset": {"rewardWinRate": wins}},
                    {"name": "safe", "preset": {"safetyViolationRate": {"scorer": short, "max": 0.1}}},
                    {
                        "name": "german",
                        "preset": {"errorRate": {"max": 0.1}},
                        "slice": {"column": "language", "value": "de"},
                    },
                ]
            },
            "judge": {"sampleRate": 0.25},
        }
        | changed
    )


def model(*digests: str, url: bool = True, serves: bool = True) -> dict[str, RewardModelView]:
    versions = tuple(
        RewardModelVersion(digest=each, gate="Passed", ref="pvc://m/x", url=f"http://{each[7:10]}" if url else None)
        for each in digests
    )
    return {"helpful": RewardModelView("helpful", serves, digests[0] if digests else None, versions, "it trains")}


def metrics(of: PolicyRolloutSpec) -> InForce:
    found = in_force(of, {})
    assert not found.problem
    return found


def test_the_newest_version_judges_from_the_start_of_a_rollout_to_its_end() -> None:
    inforce = metrics(spec())
    first = live.resolve(inforce, (), model(OLD), NOW, under_way=False)
    assert first.used == (ScorerStatus(metric="wins", name="helpful", version=OLD, since=NOW),)
    kept = live.resolve(inforce, first.used, model(NEW, OLD), NOW, under_way=True)
    assert kept.used == first.used
    changed = live.resolve(inforce, first.used, model(NEW, OLD), NOW, under_way=False)
    assert changed.used[0].version == NEW


def test_a_version_that_the_spec_names_comes_at_once() -> None:
    used = (ScorerStatus(metric="wins", name="helpful", version=OLD, since=BEFORE),)
    inforce = metrics(spec(ref={"version": NEW}))
    found = live.resolve(inforce, used, model(OLD, NEW), NOW, under_way=True)
    assert (found.used[0].version, found.used[0].since) == (NEW, NOW)


def test_the_same_version_keeps_the_time_since_which_it_judges() -> None:
    used = (ScorerStatus(metric="wins", name="helpful", version=OLD, since=BEFORE),)
    assert live.resolve(metrics(spec()), used, model(OLD), NOW, under_way=False).used == used


def test_a_reward_model_without_a_version_is_waited_for_in_words() -> None:
    found = live.resolve(metrics(spec()), (), model(), NOW, under_way=False)
    assert found.waits_for == "RewardModel helpful has no version that passed its gate yet: it trains"
    assert "does not exist" in live.resolve(metrics(spec()), (), {}, NOW, under_way=False).waits_for
    unserved = live.resolve(metrics(spec()), (), model(OLD, serves=False), NOW, under_way=False)
    assert "spec.serving.enabled" in unserved.waits_for


def test_the_judge_asks_the_versions_own_address_and_counts_by_purpose() -> None:
    inforce = metrics(spec())
    models = model(OLD)
    plan = live.judge_plan(OWNER, inforce, live.resolve(inforce, (), models, NOW, under_way=False), models)
    assert plan is not None
    wins, safe = plan.scorers
    assert (wins.purpose, wins.threshold) == (Purpose.WIN_RATE, 0.0)
    assert wins.reward_model is not None
    assert (wins.reward_model.url, wins.reward_model.version) == ("http://111", OLD)
    assert (safe.purpose, safe.threshold) == (Purpose.VIOLATION, 0.5)
    assert plan.slices == {"language": ["de"]}


def test_serving_pods_sample_for_a_judge_only_where_there_is_one() -> None:
    inforce = metrics(spec())
    said = live.signal_settings(spec(), inforce, "http://assistant-judge.team.svc:8080")
    assert (said.judge_sample_rate, said.max_concurrent_shadows, said.trajectory_sample_rate) == (0.25, 3, 0.0)
    assert live.signal_settings(spec(), inforce, None).judge_sample_rate == 0.0


def test_trajectories_are_recorded_as_the_spec_says() -> None:
    logging: dict[str, Any] = {
        "trajectories": {"sampleRate": 0.5, "redaction": "Standard", "sink": {"pvc": {"claimName": "log"}}}
    }
    said = live.signal_settings(spec(logging=logging), metrics(spec()), None)
    assert (said.trajectory_sample_rate, said.redaction) == (0.5, "Standard")
    assert said.retention_seconds == 90 * 24 * 3600
    logging["trajectories"]["retention"] = "36h"
    assert live.signal_settings(spec(logging=logging), metrics(spec()), None).retention_seconds == 36 * 3600

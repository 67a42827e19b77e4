"""Answers go to no host that is not allowed, and a grader that can't judge live is named before any pod runs."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.signals import Purpose
from rlhf_operator.common.names import Owner
from rlhf_operator.policyrollout import live
from rlhf_operator.policyrollout.metrics import InForce, in_force

OWNER = Owner("PolicyRollout", "team", "assistant", "uid")
LLM = {"model": "judge", "rubric": "safety"}


def metrics(grader: dict[str, Any], *allowed: str, **metric: Any) -> InForce:
    wins = {"scorer": {"grader": {"length": {"max": 9}}}, "min": 0.4}
    unsafe = {"scorer": {"grader": grader}, "max": 0.1}
    spec = {
        "model": {"rlhfJobRef": {"name": "job"}},
        "route": {"parentRefs": [{"name": "public"}]},
        "strategy": {"steps": [{"name": "shadow", "mirror": {"percent": 20}}]},
        "analysis": {
            "metrics": [
                {"name": "wins", "preset": {"rewardWinRate": wins}, **metric},
                {"name": "safe", "preset": {"safetyViolationRate": unsafe}},
            ]
        },
    }
    return in_force(PolicyRolloutSpec.model_validate(spec), {}, allowed)


def test_a_host_outside_the_cluster_must_be_on_the_list() -> None:
    grader = {"llmJudge": {"url": "https://api.example.com/v1", **LLM}}
    problem = metrics(grader).problem
    assert problem.startswith("metric safe: grader.llmJudge.url: host api.example.com is outside the cluster")
    assert metrics(grader, "api.example.com").problem == ""


def test_a_service_of_the_cluster_needs_no_list() -> None:
    assert metrics({"llmJudge": {"url": "http://judge.team.svc:8000/v1", **LLM}}).problem == ""


@pytest.mark.parametrize(
    ("grader", "words"),
    [
        ({"unitTests": {}}, "grader.unitTests"),
        ({"http": {"url": "http://judge.team.svc"}}, "grader.http"),
        ({"python": {"configMap": {"name": "g", "key": "g.py"}}}, "make it a RewardModel"),
        ({"llmJudge": {"url": "http://judge/v1", "secretRef": {"name": "key"}, **LLM}}, "secretRef"),
    ],
)
def test_a_grader_that_can_not_judge_live_is_named(grader: dict[str, Any], words: str) -> None:
    assert words in metrics(grader).problem


def test_a_win_rate_of_means_scores_every_answer() -> None:
    grader = {"length": {"max": 5}}
    for mode, purpose in (("Paired", Purpose.WIN_RATE), ("Unpaired", Purpose.REWARD)):
        inforce = metrics(grader, mode=mode)
        plan = live.judge_plan(OWNER, inforce, live.Scorers(), {})
        assert plan is not None
        assert plan.scorers[0].purpose is purpose

"""Answers go to no host that is not allowed, and a grader that can't judge live is named before any pod runs."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_operator.api.policyrollout import JudgeSettings, PolicyRolloutSpec
from rlhf_operator.api.signals import Purpose
from rlhf_operator.common.names import Owner
from rlhf_operator.policyrollout import live
from rlhf_operator.policyrollout.judging import judge_deployment, render_judge
from rlhf_operator.policyrollout.metrics import InForce, in_force

from .makings import DEFAULTS

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
        ({"http": {"url": "https://api.example.com/score"}}, "grader.http.url: host api.example.com is outside"),
        ({"python": {"configMap": {"name": "g", "key": "g.py"}}}, "make it a RewardModel"),
    ],
)
def test_a_grader_that_can_not_judge_live_is_named(grader: dict[str, Any], words: str) -> None:
    assert words in metrics(grader).problem


def test_a_scorers_token_is_mounted_where_its_plan_says() -> None:
    grader = {"llmJudge": {"url": "http://judge.team.svc:8000/v1", "secretRef": {"name": "judge-key"}, **LLM}}
    plan = live.judge_plan(OWNER, metrics(grader), live.Scorers(), {})
    assert plan is not None
    safe = next(each for each in plan.scorers if each.name == "safe")
    assert safe.token_path == "/rlhf/tokens/judge-key/token"
    pods = render_judge(OWNER, JudgeSettings(), DEFAULTS)
    plain, made = judge_deployment(pods, 1), judge_deployment(pods, 1, plan)
    assert judge_deployment(pods, 1, plan.model_copy(update={"scorers": []})) == plain
    before, after = (each["spec"]["template"]["spec"] for each in (plain, made))
    volume, mount = after["volumes"][-1], after["containers"][0]["volumeMounts"][-1]
    assert before["volumes"] == after["volumes"][:-1]
    assert mount == {"name": volume["name"], "mountPath": "/rlhf/tokens/judge-key", "readOnly": True}
    assert (volume["secret"]["secretName"], volume["secret"]["items"]) == (
        "judge-key",
        [{"key": "token", "path": "token"}],
    )
    assert volume["secret"]["optional"], "a judge with other scorers starts without it"


def test_a_win_rate_of_means_scores_every_answer() -> None:
    grader = {"length": {"max": 5}}
    for mode, purpose in (("Paired", Purpose.WIN_RATE), ("Unpaired", Purpose.REWARD)):
        inforce = metrics(grader, mode=mode)
        plan = live.judge_plan(OWNER, inforce, live.Scorers(), {})
        assert plan is not None
        assert plan.scorers[0].purpose is purpose

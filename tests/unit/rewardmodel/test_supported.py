"""Which graders a RewardModel takes, and where they may send texts."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_operator.api.rewardmodel import RewardModelSpec
from rlhf_operator.common.names import Owner
from rlhf_operator.rewardmodel.run import run_spec
from rlhf_operator.rewardmodel.supported import unsupported_fields
from rlhf_operator.runs.references import check_references
from rlhf_operator.runs.views import References

OWNER = Owner("RewardModel", "team", "rules", "uid")
LLM = {"url": "http://judge.team.svc/v1", "model": "m", "rubric": "factuality"}


def spec_of(grader: dict[str, Any]) -> RewardModelSpec:
    graders = [{"name": "g", "dimension": "overall", "grader": grader}]
    return RewardModelSpec.model_validate({"source": {"graders": graders}, "storage": {"size": "1Gi"}})


@pytest.mark.parametrize("grader", [{"unitTests": {}}, {"http": {"url": "http://g.team.svc/s"}}, {"llmJudge": LLM}])
def test_every_kind_of_grader_makes_a_version(grader: dict[str, Any]) -> None:
    spec = spec_of(grader)
    assert list(unsupported_fields(spec)) == []
    assert check_references(run_spec(OWNER, spec), References(), (), frozen=False).passed


@pytest.mark.parametrize(("kind", "block"), [("http", {"url": "http://g.team.svc/s"}), ("llmJudge", LLM)])
def test_a_token_that_the_versions_pods_would_not_have_is_refused_by_name(kind: str, block: dict[str, Any]) -> None:
    spec = spec_of({kind: {**block, "secretRef": {"name": "key"}}})
    assert list(unsupported_fields(spec)) == [f"source.graders[g].grader.{kind}.secretRef"]


def test_texts_go_to_no_host_that_is_not_allowed() -> None:
    run = run_spec(OWNER, spec_of({"http": {"url": "https://g.example.com/s"}}))
    refused = check_references(run, References(), (), frozen=True)
    assert (refused.reason, refused.permanent) == ("HostNotAllowed", False)
    assert refused.message.startswith("source.graders[g].grader.http.url: host g.example.com is outside the cluster")
    assert check_references(run, References(), ("g.example.com",), frozen=True).passed

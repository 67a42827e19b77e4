"""A RewardModel that is code: measured on people's judgements and served by the judge alone, without an engine."""

from __future__ import annotations

import pytest

from e2e import rewarddata
from e2e.harness_rewardmodels import RewardModels

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_graders_are_judged_by_people_and_served(models: RewardModels) -> None:
    polite = {"name": "polite", "weight": 3, "grader": {"regex": {"pattern": "|".join(rewarddata.GOOD)}}}
    brief = {"name": "brief", "weight": 1, "grader": {"length": {"max": 4}}}
    trained = models.spec(serving={"template": models.template_of("judge"), "resources": None})
    rows = trained["source"]["train"]["dataset"]
    models.apply(
        "polite",
        trained | {"source": {"graders": [polite, brief]}, "evaluation": {"dataset": rows, "minAccuracy": 0.8}},
    )
    status = models.ready("polite")["status"]
    (version,) = status["versions"]
    assert version["gate"] == "Passed"
    assert version["accuracy"] >= 0.8
    (pod,) = models.pods("polite", version["digest"])
    assert [each["name"] for each in pod["spec"]["containers"]] == ["judge"]

    word = rewarddata.GOOD[0]
    code, answer = models.score(
        status["url"], [("p", f"{word} indeed"), ("p", "no"), ("p", f"{word} and many more words")]
    )
    assert code == 200, answer
    assert answer["version"] == version["digest"]
    assert [score["dimensions"]["overall"] for score in answer["scores"]] == pytest.approx([1.0, 0.25, 0.75])

"""What the gate refuses: labels that mean nothing, and a taste for length. The former version serves all the while."""

from __future__ import annotations

import pytest

from demo.cluster import is_true
from e2e import rewarddata
from e2e.harness_clients import start_clients
from e2e.harness_rewardmodels import INPUT, RewardModels

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]


def trained_on(file: str) -> dict[str, object]:
    """The change of a spec that trains on another file."""
    return {"source": {"train": {"dataset": {"pvc": {"path": f"{INPUT}/{file}"}}}}}


def test_labels_without_meaning_and_a_taste_for_length_are_refused_while_the_former_version_serves(
    models: RewardModels,
) -> None:
    models.apply("helpful", models.spec())
    status = models.ready("helpful")["status"]
    former, texts = status["servedVersion"], rewarddata.texts(8)
    clients = start_clients(models.space, "clients", status["url"], texts)

    models.patch("helpful", trained_on("shuffled.jsonl"))
    refused = models.refused("helpful")
    shuffled = models.get("helpful")["status"]["versions"][0]
    assert shuffled["gate"] == "Failed"
    assert shuffled["digest"] != former
    lower, upper = shuffled["accuracyInterval"]
    assert lower < 0.5 < upper, "nothing was learnt, for there was nothing to learn"
    assert "minAccuracy 0.8" in refused["message"]
    assert "minLowerBound 0.6" in refused["message"]

    models.patch("helpful", trained_on("length.jsonl"))
    models.until("helpful", "another version is judged", lambda seen: len(seen["status"]["versions"]) == 3, stalls=True)
    refused = models.refused("helpful")
    lengthy = models.get("helpful")["status"]["versions"][0]
    assert lengthy["gate"] == "Failed"
    assert lengthy["accuracy"] >= 0.8, "it has learnt what it was taught: it is refused for how, not for how well"
    assert lengthy["lengthBias"] > 0.4
    assert f"length bias {lengthy['lengthBias']:.3f} > maxLengthBias 0.4" in refused["message"]
    assert "minAccuracy" not in refused["message"]

    found = models.get("helpful")
    assert is_true(found, "Ready")
    assert is_true(found, "Serving")
    assert found["status"]["servedVersion"] == found["status"]["currentVersion"] == former
    clients.more(10)
    answers = clients.end()
    print(f"{len(answers)} answers while two versions were refused; {refused['message']}")
    assert {answer.code for answer in answers} == {200}, [answer for answer in answers if answer.code != 200][:5]
    assert {answer.version for answer in answers} == {former}
    for number in range(len(texts)):
        scores = [answer.score for answer in answers if answer.text == number and answer.score is not None]
        assert max(scores) - min(scores) < 1e-5, "the same text, the same score"

"""A RewardModel from `kubectl apply` to scores in another pod: the short test. The others: test_rewardmodel_*.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.cluster import condition
from e2e import rewarddata
from e2e.harness_rewardmodels import TOLERANCE, RewardModels, tag, trainers_scores
from rlhf_scoring.version import load_probes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_reward_model_is_trained_judged_versioned_and_served(models: RewardModels, tmp_path: Path) -> None:
    # Autoscaling is asked for where nothing scales: said, and no reason not to serve.
    autoscaling = {"min": 1, "max": 3, "target": 8}
    models.apply("helpful", models.spec(serving={"autoscaling": autoscaling}))
    found = models.ready("helpful")
    status = found["status"]
    digest, namespace = status["servedVersion"], models.space.cluster.namespace

    trained, evaluated, serving = (condition(found, kind) for kind in ("Trained", "Evaluated", "Serving"))
    assert trained is not None
    assert evaluated is not None
    assert serving is not None
    assert (trained["status"], evaluated["status"], serving["status"]) == ("True", "True", "True")
    assert serving["reason"] == "AutoscalingUnavailable", serving
    assert len(models.pods("helpful", digest)) == 1

    (version,) = status["versions"]
    assert digest == status["currentVersion"] == version["digest"]
    assert version["gate"] == "Passed"
    assert version["accuracy"] >= 0.8
    assert version["accuracyInterval"][0] >= 0.6
    assert abs(version["lengthBias"]) <= 0.4
    assert version["agreementAlpha"] > 0.4, "three annotators who err in one of ten cases"
    assert status["url"] == f"http://helpful.{namespace}.svc:80"
    assert version["url"] == f"http://helpful-{tag(digest)}.{namespace}.svc:80"

    folder = models.download("helpful", tmp_path / "version")
    assert {"model.safetensors", "scorer.json", "probes.jsonl", "report.json", "report.html", "manifest.json"} <= {
        path.name for path in folder.iterdir()
    }
    texts = rewarddata.texts()
    code, answer = models.score(status["url"], texts)
    assert code == 200, answer
    assert answer["version"] == digest
    served = [score["total"] for score in answer["scores"]]
    assert served == pytest.approx(trainers_scores(folder, texts), abs=TOLERANCE)
    assert max(served) - min(served) > 100 * TOLERANCE, "scores of good and bad answers differ"

    probes = load_probes(folder)
    code, answer = models.score(version["url"], [(probe.prompt, probe.response) for probe in probes], digest)
    assert code == 200, answer
    for probe, score in zip(probes, answer["scores"], strict=True):
        assert score["dimensions"] == pytest.approx(probe.scores, abs=TOLERANCE)

    other = "sha256:" + "0" * 64
    code, answer = models.score(status["url"], texts[:1], other)
    assert (code, answer["error"]["reason"]) == (409, "VersionNotHeld")
    assert digest in answer["error"]["message"]

    table = models.space.cluster.run("get", "rewardmodels").decode()
    assert "Passed" in table, table

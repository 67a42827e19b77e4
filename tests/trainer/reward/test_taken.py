"""Versions that are not trained: an existing model, and graders; measured, published and judged by like any other."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from rlhf_operator.api.plan import PlanScorer
from rlhf_operator.api.rewardgate import RewardGate
from rlhf_operator.api.scorerfile import REPORT_FILE, ScorerFile, ScorerKind
from rlhf_scoring.artifact import verify
from rlhf_scoring.build import build_scorers
from rlhf_scoring.graded import StoredGraders
from rlhf_scoring.version import load_probes
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.preferences.report import RewardReport

from .small import NUMBER, MakeWorld, RewardWorld, pairs, word_level

COUNTING = """
def grade(prompt, response, row):
    return float(response.split().count("kind"))
"""


def evaluation_of(world: RewardWorld) -> dict[str, object]:
    return {
        "name": "evaluation",
        "path": str(world.data),
        "ref": "pvc://data/pairs.jsonl",
        "format": "Pairs",
        "columns": {},
    }


def make_model(folder: Path, heads: list[str]) -> Path:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(NUMBER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label=dict(enumerate(heads)),
        label2id={name: at for at, name in enumerate(heads)},
        initializer_range=0.2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    word_level(encoder=True).save_pretrained(folder)
    return folder


def taken(reward_world: MakeWorld, name: str = "world", **changes: object) -> RewardWorld:
    return reward_world(name, train=None, evaluation={"heldOutFraction": None}, **changes)


def test_an_existing_model_is_copied_calibrated_and_probed(reward_world: MakeWorld, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", ["LABEL_0"])
    (model / "notes.bin").write_bytes(b"a pickle, for all we know")
    world = taken(reward_world, model={"path": str(model), "ref": "pvc://models/rm"})
    world.changes["evaluation"]["dataset"] = evaluation_of(world)
    result = world.run_here()
    assert (result.step, result.engine) == (0, "none")
    assert result.reward[0].pairs > 0
    message = world.publish(RewardGate(min_lower_bound=0.9))
    assert message.artifact is not None
    assert message.artifact.gate == "Failed", "random weights know nothing"
    message = world.publish()
    assert message.artifact is not None
    folder = world.root / "output" / message.artifact.digest.replace(":", "-")
    files = {file.path for file in verify(folder, message.artifact.digest).files}
    assert {"model.safetensors", "config.json", "scorer.json", "probes.jsonl", "rlhf-input.json"} <= files
    assert "notes.bin" not in files
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "overall"}
    assert load_probes(folder)


@pytest.mark.parametrize("spoil", ["heads", "code"])
def test_a_model_that_can_not_be_used_is_a_config_error(reward_world: MakeWorld, tmp_path: Path, spoil: str) -> None:
    model = make_model(tmp_path / "model", ["helpful", "safe"])
    if spoil == "code":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    world = taken(reward_world, dimensions=["safe", "helpful"], model={"path": str(model), "ref": "pvc://models/rm"})
    words = {"heads": "the model's heads are helpful, safe", "code": "auto_map"}
    with pytest.raises(ConfigError, match=words[spoil]):
        world.run_here()


def test_a_grader_that_compares_sees_the_answer_of_each_row_and_probe(reward_world: MakeWorld, tmp_path: Path) -> None:
    compares = {"name": "right", "grader": {"finalAnswer": {"answerColumn": "solution"}}}
    world = taken(
        reward_world, dimensions=["overall"], graders=[{"dimension": "overall", "weight": 1.0, "scorer": compares}]
    )
    world.judged(
        [
            {
                "prompt": f"What is {n} plus {n}?",
                "chosen": f"It is {2 * n}.",
                "rejected": f"It is {n}.",
                "solution": str(2 * n),
            }
            for n in range(1, 31)
        ]
    )
    world.changes["evaluation"]["dataset"] = evaluation_of(world)
    must = tmp_path / "must.jsonl"
    must.write_text(json.dumps({"prompt": "6 times 7?", "chosen": "42", "rejected": "41", "solution": "42"}) + "\n")
    world.changes["evaluation"]["mustPrefer"] = {"path": str(must), "ref": "configMap://must/pairs.jsonl"}
    (figures,) = world.run_here().reward
    assert (figures.pairs, figures.accuracy) == (30, 1.0)
    assert (figures.must_prefer_pairs, figures.must_prefer_missed) == (1, 0)
    version = world.workspace / world.result().policy
    report = RewardReport.model_validate_json((version / REPORT_FILE).read_bytes())
    padded = next(each for each in report.dimensions[0].biases if each.probe == "length")
    assert padded.effect == 0.0, "words behind an answer change nothing, and the answers were there to compare with"


def test_graders_are_a_version_of_their_own(reward_world: MakeWorld, tmp_path: Path) -> None:
    code = tmp_path / "grader.py"
    code.write_text(COUNTING)
    world = taken(
        reward_world,
        dimensions=["kind", "brief"],
        graders=[
            {
                "dimension": "kind",
                "weight": 3.0,
                "scorer": {
                    "name": "counting",
                    "graderPath": str(code),
                    "grader": {"python": {"configMap": {"name": "g", "key": "grader.py"}}},
                },
            },
            {
                "dimension": "kind",
                "weight": 1.0,
                "scorer": {"name": "kindly", "grader": {"regex": {"pattern": "kind"}}},
            },
            {"dimension": "brief", "weight": 1.0, "scorer": {"name": "short", "grader": {"length": {"max": 4}}}},
        ],
    )
    rows = [{**row, "judged": "kind"} for row in pairs()]
    world.judged(rows)
    dataset = evaluation_of(world)
    dataset["columns"] = {"dimension": "judged"}
    world.changes["evaluation"]["dataset"] = dataset
    world.run_here()
    message = world.publish()
    assert message.artifact is not None
    assert message.artifact.base_model_digest is None
    folder = world.root / "output" / message.artifact.digest.replace(":", "-")
    verify(folder, message.artifact.digest)
    stored = ScorerFile.model_validate_json((folder / "scorer.json").read_bytes())
    assert (stored.kind, stored.dimensions) == (ScorerKind.GRADERS, ["kind", "brief"])
    code.unlink()
    found = StoredGraders.find(folder)
    assert found is not None

    plans = [
        {"name": "kind", "rewardModel": {"name": "rm", "path": str(folder), "dimension": "kind"}},
        {"name": "all", "rewardModel": {"name": "rm", "path": str(folder)}},
    ]
    with build_scorers([PlanScorer.model_validate(plan) for plan in plans]) as scorers:
        texts = ["kind kind w1", "w1 w2 w3 w4 w5 w6"]
        assert scorers.score("kind", ["p", "p"], texts, [{}, {}]) == pytest.approx([(3 * 2 + 1) / 4, 0.0])
        assert scorers.score("all", ["p", "p"], texts, [{}, {}]) == pytest.approx([(7 / 4 + 1) / 2, 0.0])
    shutil.rmtree(folder)

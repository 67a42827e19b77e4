"""SFT, DPO and KTO learn what the data prefers, by TRL's trainers, and say how far they went."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.algorithms import DPO, KTO, SFT
from rlhf_trainer.errors import ConfigError, GuardStopped
from rlhf_trainer.training import dpo, kto, sft
from rlhf_trainer.trl_bridge.tables import settings

from .small import MakeWorld, judged, steps

FAST = {"optimizer": {"learningRate": 1e-2}}


def test_dpo_prefers_what_was_chosen(offline_world: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world = offline_world("DPO", training={"steps": 16}, evaluation={"everySteps": 8}, **FAST)
    world.run_here()
    told = steps(capsys.readouterr().out)
    # Before the first update policy and reference are one.
    assert told[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert told[0]["rewardMargin"] == pytest.approx(0, abs=1e-5)
    assert told[-1]["accuracy"] == 1.0
    assert told[-1]["rewardMargin"] > 0.5
    assert [event["step"] for event in told if "kl" in event] == [8, 16]
    result = world.result()
    assert result.step == 16
    assert result.engine == "LlamaForCausalLM(world=1)"
    assert 0 < result.figures["klPerToken"] < result.figures["kl"]
    assert result.figures["eval/sorry/Policy"] > result.figures["eval/sorry/Base"]
    assert {comparison.baseline for comparison in result.evaluation} == {"Base"}


@pytest.mark.parametrize("format_", ["Pairs", "Binary"])
def test_kto_prefers_what_was_desired_and_takes_pairs_as_two_rows(
    offline_world: MakeWorld, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    world = offline_world("KTO", training={"steps": None, "epochs": 4}, dataset={"format": format_}, **FAST)
    pairs = [json.loads(line) for line in world.data.read_text().splitlines()]
    if format_ == "Binary":
        split = [(row["prompt"], row[side], side == "chosen") for row in pairs for side in ("chosen", "rejected")]
        world.rows([{"prompt": prompt, "response": text, "label": label} for prompt, text, label in split])
    world.run_here()
    told = steps(capsys.readouterr().out)
    # Four passes over two rows of each pair, eight at a time.
    assert len(told) == 4 * 2 * len(pairs) // 8
    assert told[0]["referencePoint"] == pytest.approx(0, abs=1e-5)
    assert told[-1]["rewardMargin"] > 0.3
    assert world.result().figures["kl"] > 0
    assert world.result().figures["eval/sorry/Policy"] > world.result().figures["eval/sorry/Base"]


def test_sft_learns_demonstrations(offline_world: MakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    world = offline_world("SFT", training={"steps": 16}, **FAST)
    world.run_here()
    told = steps(capsys.readouterr().out)
    assert told[-1]["loss"] < told[0]["loss"] - 0.5
    assert world.result().figures["eval/sorry/Policy"] > world.result().figures["eval/sorry/Base"]


def test_a_policy_that_goes_too_far_is_stopped_at_a_measured_step(offline_world: MakeWorld) -> None:
    guards = [{"name": "kl", "patience": 1, "kl": {"max": 0.5}}]
    world = offline_world("DPO", training={"steps": 16}, evaluation={"everySteps": 8}, guards=guards, **FAST)
    with pytest.raises(GuardStopped, match="at step 8"):
        world.run_here()


def test_rows_that_are_too_long_are_counted_and_none_is_lost(offline_world: MakeWorld) -> None:
    world = offline_world("DPO", training={"steps": 1}, evaluation=None)
    rows = judged()
    rows[0]["rejected"] = "bad " * 9
    rows[1]["chosen"] = "sorry " * 9
    rows[2]["prompt"] = "order " * 20
    world.rows(rows)
    world.run_here()
    record = world.result().datasets[0]
    assert record.dropped == {"OverlongResponse": 2, "OverlongPrompt": 1}
    assert record.used == len(rows) - 3


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        ("SFT", {"rewards": [{"scorer": "sorry"}]}, "rewards: SFT optimises none"),
        ("DPO", {"monitors": ["sorry"], "evaluation": None}, "monitors: DPO asks scorers in evaluations only"),
        ("KTO", {"generation": {"truncation": {"mode": "Mask"}}}, "generation.truncation: KTO rewards no response"),
        ("DPO", {"dataset": {"format": "Binary"}}, "dataset.format Binary: DPO learns from Pairs"),
        ("SFT", {"guards": [{"name": "kl", "patience": 1, "kl": {"max": 1}}]}, r"guards\[kl\].kl: SFT generates no"),
        ("DPO", {"dpo": {"loss": "Hinge", "labelSmoothing": 0.1}}, "dpo.labelSmoothing: the Hinge loss has none"),
        ("KTO", {"training": {"batchSize": 1}}, "training.batchSize 1"),
        ("DPO", {"training": {"batchSize": 6}}, "training.batchSize 6 must be a multiple"),
        ("DPO", {"dpo": None}, "algorithm DPO needs the block dpo"),
    ],
)
def test_what_an_algorithm_has_no_use_for_is_refused_by_name(
    offline_world: MakeWorld, algorithm: str, changes: dict[str, Any], message: str
) -> None:
    world = offline_world(algorithm, **changes)
    with pytest.raises(ConfigError, match=message):
        world.run_here()
    assert not Path(world.workspace).exists()


def test_every_hyperparameter_is_said_to_trl() -> None:
    words = {"loss": lambda _: ["robust"]}
    assert settings(DPO(beta=0.3, label_smoothing=0.1), dpo.NAMES, words) == {
        "beta": 0.3,
        "loss_type": ["robust"],
        "label_smoothing": 0.1,
    }
    assert dpo.loss_of(DPO(label_smoothing=0.1)) == "robust"
    assert dpo.loss_of(DPO()) == "sigmoid"
    assert set(settings(KTO(), kto.NAMES)) == {"beta", "desirable_weight", "undesirable_weight"}
    assert settings(SFT(), sft.NAMES) == {}
    with pytest.raises(KeyError):
        settings(KTO(), {"beta": "beta"})


def test_mismatched_pairs_are_those_of_the_batch_whatever_the_micro_batch() -> None:
    assert [kto.mismatched(place, 4) for place in range(8)] == [3, 0, 1, 2, 7, 4, 5, 6]

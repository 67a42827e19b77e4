"""A RewardModel is trained, measured, judged and published as its pods do it, and resumed with the same bits."""

import json
import os
import random
import shutil
import signal

import pytest

from rlhf_operator.api.plan import LiveSettings, PlanRewardModel
from rlhf_operator.api.result import TerminationMessage
from rlhf_operator.api.rewardgate import RewardGate
from rlhf_operator.api.scorerfile import PROBE_TOLERANCE, ScorerFile
from rlhf_scoring.artifact import verify
from rlhf_scoring.encode import INPUT_FORMAT_FILE
from rlhf_scoring.reward_model import RewardModel, RewardScorer
from rlhf_scoring.version import load_probes
from rlhf_trainer.__main__ import main
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.termination import success_message
from trainer.core.tiny import free_port

from .small import BAD, GOOD, MakeWorld, RewardWorld, answer, make_decoder, pairs

FILES = {"config.json", "model.safetensors", "scorer.json", "probes.jsonl", "report.json", "report.html"}


def run_to_end(world: RewardWorld, workers: int = 1, **options: object) -> None:
    port = free_port()
    runs = [world.start(index=index, workers=workers, port=port, **options) for index in range(workers)]
    for run in runs:
        assert run.wait() == 0, run.tail()


def published_by_command(world: RewardWorld, gate: RewardGate) -> TerminationMessage:
    """Publish as the pod does, with limits from the settings' file."""
    plan, settings, words = (world.root / name for name in ("plan.json", "limits.json", "words"))
    plan.write_text(world.plan.canonical())
    settings.write_text(LiveSettings(reward_gate=gate).model_dump_json(by_alias=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_TERMINATION_LOG", str(words))
        arguments = ["--plan", str(plan), "--workspace", str(world.workspace), "--settings", str(settings)]
        assert main(["publish", *arguments, "--output", str(world.root / "output")]) == 0
    return TerminationMessage.model_validate_json(words.read_bytes())


def test_a_version_is_trained_measured_published_and_scores_as_it_was_measured(reward_world: MakeWorld) -> None:
    world = reward_world()
    result = world.run_here()
    assert result.engine == "BertForSequenceClassification(world=1)"
    [figures] = result.reward
    assert success_message(result).reward == figures
    assert figures.accuracy is not None
    assert figures.accuracy > 0.9, "the good words are easy to tell"
    assert figures.pairs == pytest.approx(30, abs=8)
    assert figures.accuracy_interval is not None
    assert result.datasets[0].used == 120

    published = world.publish(RewardGate(min_accuracy=0.8, min_lower_bound=0.5))
    assert published.artifact is not None
    assert published.artifact.gate == "Passed"
    folder = world.root / "output" / published.artifact.digest.replace(":", "-")
    manifest = verify(folder, published.artifact.digest)
    assert {*FILES, INPUT_FORMAT_FILE} <= {file.path for file in manifest.files}
    assert manifest.lineage.base_model is not None
    assert manifest.lineage.base_model.digest == result.base_model_digest
    assert manifest.lineage.datasets[0].digest == result.datasets[0].digest

    version = RewardScorer("tiny", folder)
    probes = load_probes(folder)
    assert len(probes) >= 24
    assert any(not probe.response for probe in probes)
    for probe, scores in zip(
        probes, version.scores([p.prompt for p in probes], [p.response for p in probes]), strict=True
    ):
        assert scores.dimensions == pytest.approx(probe.scores, abs=PROBE_TOLERANCE)
    judge = RewardModel("tiny", PlanRewardModel(name="tiny", path=str(folder)))
    good, bad = judge.judge(["w1 w2", "w1 w2"], ["w3 kind w4", "w3 rude w4"], [{}, {}])
    assert isinstance(good, float)
    assert isinstance(bad, float)
    assert good > bad
    temperature = ScorerFile.model_validate_json((folder / "scorer.json").read_bytes()).temperatures[0]
    assert temperature > 0

    refused = published_by_command(world, RewardGate(min_accuracy=1.0, max_length_bias=0.0))
    assert refused.artifact is not None
    assert refused.artifact.gate == "Failed"
    assert refused.artifact.digest == published.artifact.digest, "limits are no part of a version"
    assert "length bias" in refused.message
    assert world.publish().artifact is not None
    assert world.publish().artifact.gate == "NotEvaluated"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("workers", "zero"),
    [(1, 0), *(pytest.param(2, zero, marks=pytest.mark.slow) for zero in (0, 2, 3))],
)
def test_a_killed_training_ends_with_the_same_version(reward_world: MakeWorld, workers: int, zero: int) -> None:
    world = reward_world(
        compute={"workers": workers, "zeroStage": zero},
        evaluation={"heldOutFraction": None, "folds": 2},
        train={"epochs": 2, "lora": {"rank": 4, "alpha": 8} if zero == 2 else None},
        checkpoints={"everySteps": 3},
    )
    run_to_end(world, workers)
    calm = world.result()
    shutil.move(world.workspace, world.root / "undisturbed")

    moment = random.Random(os.urandom(8))
    step, rank = moment.randint(4, calm.step - 2), moment.randrange(workers)
    port = free_port()
    runs = [world.start(index=index, workers=workers, port=port) for index in range(workers)]
    runs[0].until_step(step)
    for victim in runs[rank].ranks()[:1]:
        os.kill(victim, signal.SIGKILL)
    said = f"killed rank {rank} after step {step} of {calm.step}"
    assert all([run.wait() for run in runs]), said

    run_to_end(world, workers, attempt=2, minimum=3)
    resumed = world.runs[-workers].events("resumed")
    assert resumed, said
    found = world.result()
    assert found.policy_digest == calm.policy_digest, said
    assert found.reward == calm.reward, said
    if zero:
        assert f"DeepSpeedEngine(stage={zero}, partitions={workers}, world={workers})" in found.engine


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2])
def test_two_ranks_learn_from_the_same_batches_as_one(reward_world: MakeWorld, zero: int) -> None:
    losses = []
    for workers in (1, 2):
        changes = {"compute": {"workers": workers, "zeroStage": zero if workers == 2 else 0}}
        world = reward_world(f"of-{workers}", train={"epochs": 2}, **changes)
        shutil.rmtree(world.base)
        # No dropout: its draws belong to the ranks.
        make_decoder(world.base)
        run_to_end(world, workers)
        losses.append([event["loss"] for event in world.runs[0].events("step")])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_sigterm_saves_and_exits_75(reward_world: MakeWorld) -> None:
    world = reward_world(train={"epochs": 40}, checkpoints={"everySteps": 1000})
    run = world.start()
    run.until_step(3)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 75, run.tail()
    message = run.message()
    assert message.failure == "Interrupted"
    assert message.checkpoint is not None
    assert "saved" in message.message


def test_shuffled_labels_are_refused(reward_world: MakeWorld) -> None:
    world = reward_world(evaluation={"heldOutFraction": None, "folds": 2}, train={"epochs": 2})
    draw = random.Random(3)
    world.judged(
        [
            row if draw.random() < 0.5 else {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
            for row in pairs(100)
        ]
    )
    world.run_here()
    [figures] = world.result().reward
    assert figures.accuracy_interval is not None
    lower, upper = figures.accuracy_interval
    assert lower < 0.5 < upper, "nothing can be learnt"
    message = world.publish(RewardGate(min_accuracy=0.55, min_lower_bound=0.5))
    assert message.artifact is not None
    assert message.artifact.gate == "Failed"
    assert not (world.root / "output").exists(), "what failed stays in the workspace"


def test_a_reward_model_that_likes_length_is_refused(reward_world: MakeWorld) -> None:
    draw = random.Random(4)
    rows = []
    for row in pairs(150):
        short, long = (answer(draw, GOOD + BAD, words) for words in (draw.randint(1, 4), draw.randint(7, 12)))
        rows.append({**row, "chosen": long, "rejected": short})
    world = reward_world(train={"epochs": 3})
    world.judged(rows)
    world.run_here()
    [figures] = world.result().reward
    assert figures.length_bias is not None
    message = world.publish(RewardGate(min_accuracy=0.55, max_length_bias=0.5))
    assert message.artifact is not None
    assert message.artifact.gate == "Failed"
    assert "length bias" in message.message


def test_a_decoder_learns_two_dimensions_each_by_its_own_head(reward_world: MakeWorld) -> None:
    world = reward_world(
        dimensions=["kind", "short"], train={"epochs": 10, "dataset": {"columns": {"dimension": "judged"}}}
    )
    shutil.rmtree(world.base)
    make_decoder(world.base)
    rows = []
    for number, row in enumerate(pairs(240)):
        judged = ["kind", "short"][number % 2]
        longer = row["rejected"] + " w1 w2 w3 w4 w5 w6"
        rows.append({**row, "judged": judged, "rejected": longer if judged == "short" else row["rejected"]})
    world.judged(rows)
    world.run_here()
    assert [each.dimension for each in world.result().reward] == ["kind", "short"]
    assert all(each.accuracy is not None and each.accuracy > 0.7 for each in world.result().reward)
    folder = world.workspace / world.result().policy
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "kind", "1": "short"}
    scorer = RewardScorer("tiny", folder)
    [scores] = scorer.scores(["w1"], ["kind w2"])
    assert scores.total == pytest.approx(sum(scores.dimensions.values()) / 2)


def test_a_base_model_without_its_weights_is_refused_by_name(reward_world: MakeWorld) -> None:
    world = reward_world()
    (world.base / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        world.run_here()

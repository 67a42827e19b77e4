"""A run that is killed and goes on ends with the same bits as one that was left alone."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .killed import finish, killed_after
from .tiny import Run, World

STEPS = 8
SHAPES = {
    "one process": {"workers": 1, "zeroStage": 0},
    "two workers, replicated": {"workers": 2, "zeroStage": 0},
    "two workers, ZeRO-2": {"workers": 2, "zeroStage": 2},
    "two workers, ZeRO-3": {"workers": 2, "zeroStage": 3},
}


def plan_of(shape: str) -> dict[str, object]:
    return {
        "training": {"steps": STEPS},
        "compute": SHAPES[shape],
        "checkpoints": {"everySteps": 2},
        "ppo": {"kl": {"controller": "Adaptive", "target": 1.0, "horizon": 100}},
        "rewards": [{"scorer": "sorry", "weight": 1.0, "normalize": "Running"}],
        "scorers": [{"name": "sorry", "grader": {"regex": {"pattern": "sorry"}}}],
    }


@pytest.mark.parametrize(
    "shape",
    [
        "one process",
        pytest.param("two workers, replicated", marks=pytest.mark.slow),
        # The e2e tier kills ZeRO-2 between real pods.
        pytest.param("two workers, ZeRO-2", marks=pytest.mark.slow),
        "two workers, ZeRO-3",
    ],
)
def test_a_killed_run_ends_with_the_same_bits(
    world: Callable[..., World], pods: Callable[..., list[Run]], shape: str
) -> None:
    workers = int(SHAPES[shape]["workers"])
    calm = world("calm", **plan_of(shape))
    killed_after(calm, pods, workers, STEPS)
    assert calm.result().attempt == 2
    assert calm.result().world_size == workers
    assert SHAPES_ENGINE[int(SHAPES[shape]["zeroStage"])] in calm.result().engine


SHAPES_ENGINE = {
    0: "PlainEngine",
    2: "DeepSpeedEngine(stage=2, partitions=2, world=2)",
    3: "DeepSpeedEngine(stage=3, partitions=2, world=2)",
}


def test_sigterm_saves_exits_75_and_goes_on_with_the_same_bits(world: Callable[..., World]) -> None:
    made = world(training={"steps": STEPS}, checkpoints={"everySteps": 100})
    finish([made.start()])
    kept = made.result()
    shutil.move(made.workspace, made.root / "undisturbed")

    first = made.start(attempt=1)
    first.until_step(3)
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 75, first.tail()
    message = first.message()
    assert message.failure == "Interrupted"
    assert message.checkpoint is not None
    assert 3 <= message.checkpoint.step < STEPS
    assert "saved" in message.message

    finish([made.start(attempt=2, minimum=message.checkpoint.step)])
    assert made.result().policy_digest == kept.policy_digest


@pytest.mark.slow
def test_too_little_grace_leaves_without_saving(world: Callable[..., World]) -> None:
    made = world(training={"steps": 200}, checkpoints={"everySteps": 100})
    run = made.start(environment={"RLHF_GRACE_SECONDS": "0.001"})
    run.until_step(2)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 75, run.tail()
    message = run.message()
    assert message.failure == "Interrupted"
    assert message.checkpoint is None


def test_a_finished_plan_is_not_trained_again(world: Callable[..., World]) -> None:
    made = world(training={"steps": 2})
    finish([made.start()])
    before = (made.workspace / "result.json").read_bytes()
    again = made.start(attempt=2)
    assert again.wait() == 0
    assert not again.events("step")
    assert again.message() == made.runs[0].message()
    assert (made.workspace / "result.json").read_bytes() == before
    assert not Path(made.workspace, "attempts", "2").exists()


def test_a_warm_start_goes_on_where_it_was_killed(world: Callable[..., World], tmp_path: Path) -> None:
    demonstrations = tmp_path / "demonstrations.jsonl"
    demonstrations.write_text(
        "".join(
            f'{{"prompt": "{a} {b}", "response": "{b} {a} good"}}\n'
            for a in ("order", "late")
            for b in ("yes", "no", "bad")
        )
    )
    made = world(
        training={"steps": 2},
        warmStart={
            "dataset": {
                "name": "warmStart",
                "path": str(demonstrations),
                "ref": "pvc://data/demonstrations.jsonl",
                "format": "Demonstrations",
                "columns": {"prompt": "prompt", "response": "response"},
            },
            "epochs": 30,
            "batchSize": 4,
            "seed": 3,
            "optimizer": {"learningRate": 3e-3, "schedule": "Constant", "warmupSteps": 0},
        },
    )
    finish([made.start()])
    kept, steps = made.result(), made.runs[0].events("step")
    # The warm start's policy is PPO's reference: nothing has moved at the first step.
    assert abs(steps[0]["kl"]) < 1e-4
    shutil.move(made.workspace, made.root / "undisturbed")

    first = made.start(attempt=1)
    first.until(lambda run: any(event["step"] >= 10 for event in run.events("warm-start")))
    os.kill(first.ranks()[0], signal.SIGKILL)
    assert first.wait() != 0
    finish([made.start(attempt=2)])
    assert made.runs[-1].events("resumed"), made.runs[-1].tail()
    assert made.result().policy_digest == kept.policy_digest

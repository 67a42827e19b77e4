"""SFT, DPO and KTO that were killed, or asked to leave, end with the same bits as when they were left alone."""

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from rlhf_trainer.errors import ConfigError, Interrupted
from trainer.core.tiny import Run, free_port

from .small import BLOCKS, MakeWorld, OfflineWorld, StopAfter, two_ranks

STEPS = 10
KILLED_STEPS = 40
CHANGES: dict[str, Any] = {"training": {"steps": STEPS}, "checkpoints": {"everySteps": 2}, "evaluation": None}
SHAPES = {
    "one process": {"workers": 1, "zeroStage": 0},
    "ZeRO-2": {"workers": 2, "zeroStage": 2},
    "ZeRO-3": {"workers": 2, "zeroStage": 3},
}


@pytest.mark.parametrize("algorithm", BLOCKS)
def test_a_run_that_was_asked_to_leave_goes_on_with_the_same_bits(offline_world: MakeWorld, algorithm: str) -> None:
    world = offline_world(algorithm, **{**CHANGES, "checkpoints": {"everySteps": 100}})
    world.run_here()
    kept = world.result()
    shutil.move(world.workspace, world.root / "undisturbed")

    stop = random.Random(os.urandom(8)).randint(1, STEPS - 2)
    with pytest.raises(Interrupted, match=f"after step {stop + 1}; saved"):
        world.run_here(stop=StopAfter(stop))
    world.run_here(attempt=2)
    assert world.result().policy_digest == kept.policy_digest, f"left after step {stop + 1}"
    assert world.result().figures == kept.figures


@pytest.mark.parametrize("stage", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_partitioned_runs_go_on_with_the_same_bits(tmp_path: Path, stage: int) -> None:
    said = two_ranks(tmp_path, stage, "resume")
    assert [line.split()[2] for line in said.splitlines() if line.startswith("SAME BITS")] == list(BLOCKS)
    assert f"DeepSpeedEngine(stage={stage}, partitions=2, world=2)" in said


def test_another_world_size_is_refused_by_name(offline_world: MakeWorld) -> None:
    world = offline_world("DPO", **CHANGES)
    with pytest.raises(Interrupted):
        world.run_here(stop=StopAfter(3))
    folder = next((world.workspace / "attempts" / "1" / "checkpoints").iterdir())
    complete = folder / "COMPLETE.json"
    # The plan of another world size has another digest; what a person could do is move the checkpoint.
    complete.write_text(complete.read_text().replace('"worldSize": 1', '"worldSize": 2'))
    with pytest.raises(ConfigError, match="written by 2 ranks and this attempt has 1"):
        world.run_here(attempt=2)


def started(world: OfflineWorld, shape: str, attempt: int) -> list[Run]:
    workers, port = int(SHAPES[shape]["workers"]), free_port()
    return [world.start(index=at, workers=workers, port=port, attempt=attempt) for at in range(workers)]


def finish(runs: list[Run]) -> None:
    for run in runs:
        assert run.wait(550) == 0, run.tail()


@pytest.mark.parametrize(
    ("algorithm", "shape"),
    [
        ("KTO", "one process"),
        *(
            pytest.param(algorithm, shape, marks=pytest.mark.slow)
            for algorithm in BLOCKS
            for shape in SHAPES
            if (algorithm, shape) != ("KTO", "one process")
        ),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(offline_world: MakeWorld, algorithm: str, shape: str) -> None:
    world = offline_world(algorithm, **CHANGES | {"training": {"steps": KILLED_STEPS}}, compute=SHAPES[shape])
    if shape == "one process":
        world.run_here()
    else:
        finish(started(world, shape, 1))
    kept = world.result()
    shutil.move(world.workspace, world.root / "undisturbed")

    # Behind the first checkpoint, in a step or in the middle of a save.
    moment = random.Random(os.urandom(8))
    step, wait = moment.randint(2, KILLED_STEPS // 2), moment.uniform(0, 0.1)
    runs = started(world, shape, 1)
    runs[0].until_step(step, 550)
    runs[0].until(lambda run: bool(run.events("checkpoint")), 550)
    victim = runs[moment.randrange(len(runs))].ranks()
    try:
        runs[0].process.wait(wait)
    except Exception:
        os.kill(victim[0], signal.SIGKILL)
    said = f"killed {wait:.3f} s after step {step}: {[run.wait(550) for run in runs]}"
    finish(started(world, shape, 2))
    resumed = world.runs[-len(runs)].events("resumed")
    assert resumed, said
    assert world.result().policy_digest == kept.policy_digest, said
    assert world.result().figures == kept.figures, said
    if shape != "one process":
        assert f"DeepSpeedEngine(stage={SHAPES[shape]['zeroStage']}, partitions=2, world=2)" == world.result().engine

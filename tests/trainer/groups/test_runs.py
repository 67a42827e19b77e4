"""GRPO and RLOO as whole runs of `launch`: they learn, go on with the same bits, and are the same however sharded."""

import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer.core.conftest import pods, world
from trainer.core.killed import finish, killed_after
from trainer.core.tiny import Run, World

__all__ = ["pods", "world"]

STEPS = 8
ZERO = {2: "DeepSpeedEngine(stage=2, partitions=2, world=2)", 3: "DeepSpeedEngine(stage=3, partitions=2, world=2)"}


def algorithm(name: str, **settings: Any) -> dict[str, Any]:
    """The plan's changes for one of the two."""
    return {"algorithm": name.upper(), "ppo": None, name: {"groupSize": 4, **settings}}


@pytest.mark.parametrize(
    ("name", "workers", "stage"),
    [
        ("grpo", 1, 0),
        ("rloo", 1, 0),
        *(pytest.param(name, 2, stage, marks=pytest.mark.slow) for name in ("grpo", "rloo") for stage in (2, 3)),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(
    world: Callable[..., World], pods: Callable[..., list[Run]], name: str, workers: int, stage: int
) -> None:
    # Two optimizer steps a step: a checkpoint between them would be none that can be gone on from.
    calm = world(
        "calm",
        **algorithm(name, iterations=2, kl={"coefficient": 0.05}),
        training={"steps": STEPS},
        compute={"workers": workers, "zeroStage": stage},
        checkpoints={"everySteps": 2},
        rewards=[{"scorer": "sorry", "weight": 1.0, "normalize": "Running"}],
    )
    killed_after(calm, pods, workers, STEPS)
    if stage:
        assert calm.result().engine == ZERO[stage]


@pytest.mark.slow
def test_sigterm_waits_for_the_end_of_the_step(world: Callable[..., World], pods: Callable[..., list[Run]]) -> None:
    changes = algorithm("grpo", iterations=3)
    made = world(**changes, training={"steps": STEPS}, checkpoints={"everySteps": 100})
    finish([made.start()])
    kept = made.result()
    shutil.move(made.workspace, made.root / "undisturbed")
    first = made.start(attempt=1)
    first.until_step(3)
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 75, first.tail()
    saved = first.message().checkpoint
    assert saved is not None
    assert 3 <= saved.step < STEPS
    finish([made.start(attempt=2, minimum=saved.step)])
    assert made.result().policy_digest == kept.policy_digest


def test_the_reward_rises(world: Callable[..., World]) -> None:
    made = world(
        **algorithm("rloo", kl={"coefficient": 0.02}),
        training={"steps": 30, "batchSize": 32},
        optimizer={"learningRate": 1e-2},
        checkpoints={"everySteps": 100},
        monitors=["thanks"],
        scorers=[
            {"name": "sorry", "grader": {"regex": {"pattern": "sorry"}}},
            {"name": "thanks", "grader": {"regex": {"pattern": "thanks"}}},
        ],
    )
    run = made.start(micro=16)
    assert run.wait() == 0, run.tail()
    steps = run.events("step")
    rewards = [event["reward"] for event in steps]
    assert abs(steps[0]["kl"]) < 1e-4, "nothing has moved before the first update"
    assert sum(rewards[:3]) / 3 < 0.55, rewards
    assert sum(rewards[-3:]) / 3 > 0.8, rewards
    assert 0.1 < steps[-1]["kl"] < 20
    # A monitor is scored and told, and no part of the reward.
    assert all("score/thanks" in event and "rewardPart/thanks" not in event for event in steps)
    assert all(event["reward"] == pytest.approx(event["score/sorry"], abs=1e-5) for event in steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "rloo"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_one_of_eight_and_two_of_four_take_the_same_step(
    world: Callable[..., World], pods: Callable[..., list[Run]], name: str, stage: int
) -> None:
    # Draws belong to rows, so the first step's responses are the same; their lengths differ.
    changes = {
        **algorithm(name, kl={"coefficient": 0.1}),
        "training": {"steps": 1, "batchSize": 8},
        "rewards": [{"scorer": "length"}],
        "scorers": [{"name": "length", "grader": {"length": {"max": 3, "unit": "Words"}}}],
    }
    one = world("one", **changes)
    finish([one.start(micro=8)])
    two = world("two", **changes, compute={"workers": 2, "zeroStage": stage})
    finish(pods(two, 2, micro=4))
    alone, both = (made.runs[0].events("step")[0] for made in (one, two))
    assert alone["gradNorm"] > 1e-2
    for figure in ("policyLoss", "gradNorm", "reward", "responseTokens", "entropy", "kl"):
        assert both[figure] == pytest.approx(alone[figure], abs=1e-5), figure
    weights = [load_file(made.workspace / made.result().policy / "model.safetensors") for made in (one, two)]
    for key, value in weights[0].items():
        # Adam's first step is the gradient's sign times the rate: where a gradient is all but zero, signs may differ.
        assert float(((weights[1][key] - value).abs() < 1e-5).double().mean()) > 0.98, key
        assert torch.isfinite(value).all()

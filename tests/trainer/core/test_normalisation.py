"""However a batch is cut over ranks and micro-batches, the loss and the gradients are the same."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .tiny import World, free_port, inherited_environment

SCRIPT = Path(__file__).with_name("fixed_rollout.py")


def optimizer_step(root: Path, world: int, micro: int, stage: int = 0) -> dict[str, Any]:
    output, port = root / f"{world}-{micro}-{stage}.pt", free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(root), str(output), str(micro), str(stage)],
            env={
                **inherited_environment(),
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    for rank in ranks:
        said, _ = rank.communicate(timeout=240)
        assert rank.returncode == 0, said.decode()[-4000:]
    found: dict[str, Any] = torch.load(output, weights_only=True)
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert one
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], atol=1e-5, rtol=1e-5, msg=lambda text, at=name: f"{at}: {text}"
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The step of one process on the batch in one piece: 1 × 8."""
    root = tmp_path_factory.mktemp("fixed")
    World(root)
    return root, optimizer_step(root, 1, 8)


def test_two_ranks_of_four_give_the_loss_and_gradients_of_one_of_eight(whole: tuple[Path, dict[str, Any]]) -> None:
    root, one = whole
    two = optimizer_step(root, 2, 4)
    assert two["figures"] == pytest.approx(one["figures"], abs=1e-5)
    assert_same(one["gradients"], two["gradients"])
    assert one["figures"]["gradNorm"] > 1e-3
    assert one["figures"]["criticGradNorm"] > 1e-3


@pytest.mark.slow
def test_micro_batches_change_nothing(whole: tuple[Path, dict[str, Any]]) -> None:
    root, one = whole
    small = optimizer_step(root, 1, 1)
    assert small["figures"] == pytest.approx(one["figures"], abs=1e-5)
    assert_same(one["gradients"], small["gradients"])


@pytest.mark.parametrize(("stage", "micro"), [(2, 2), (3, 4), pytest.param(3, 2, marks=pytest.mark.slow)])
def test_zero_takes_the_same_step(whole: tuple[Path, dict[str, Any]], stage: int, micro: int) -> None:
    root, one = whole
    sharded = optimizer_step(root, 2, micro, stage)
    assert sharded["figures"] == pytest.approx(one["figures"], abs=1e-5)
    # Adam's first step is the gradient's sign times the rate: weights differ where a gradient is all but zero.
    for name, value in one["weights"].items():
        gradient = one["gradients"].get(name)
        clear = torch.ones_like(value, dtype=torch.bool) if gradient is None else gradient.abs() > 1e-5
        torch.testing.assert_close(sharded["weights"][name][clear], value[clear], atol=1e-5, rtol=1e-4)

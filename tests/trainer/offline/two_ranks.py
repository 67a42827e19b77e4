"""One of two ranks that run every algorithm, one after the other: `two_ranks.py ROOT STAGE steps|resume`."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rlhf_trainer.distributed import Group, join
from rlhf_trainer.errors import Interrupted
from trainer.offline.small import BLOCKS, OfflineWorld, StopAfter

STEPS: dict[str, Any] = {
    "training": {"steps": 2},
    "optimizer": {"learningRate": 1e-3},
    "checkpoints": {"everySteps": 1},
    "evaluation": None,
}
RESUME: dict[str, Any] = {"training": {"steps": 6}, "checkpoints": {"everySteps": 100}, "evaluation": None}


def take_steps(world: OfflineWorld, group: Group) -> None:
    """Micro-batches of 4."""
    world.run_here(micro=4, group=group)


def leave_and_go_on(world: OfflineWorld, group: Group) -> None:
    """A run that is left alone, and one that leaves behind step 3 and goes on: the same policy."""
    world.run_here(micro=4, group=group)
    group.barrier("the undisturbed run")
    kept = world.result()
    group.barrier("the look at its result")
    if group.is_main:
        shutil.move(world.workspace, world.workspace.with_name(f"undisturbed-{world.algorithm}"))
    group.barrier("the next run")
    left = "the run did not leave"
    try:
        world.run_here(micro=4, group=group, stop=StopAfter(2))
    except Interrupted as interrupted:
        left = interrupted.message
    assert "after step 3; saved" in left, left
    world.run_here(micro=4, group=group, attempt=2)
    group.barrier("the resumed run")
    assert world.result().policy_digest == kept.policy_digest, world.algorithm
    assert world.result().figures == kept.figures, world.algorithm
    assert world.result().engine == kept.engine
    print("SAME BITS", world.algorithm, kept.engine, flush=True)


def main(root: Path, stage: int, mode: str) -> None:
    """Run every algorithm."""
    group = None
    for algorithm in BLOCKS:
        changes = STEPS if mode == "steps" else RESUME
        world = OfflineWorld(root, {**changes, "compute": {"workers": 2, "zeroStage": stage}}, algorithm=algorithm)
        group = group or join(world.plan.compute, 600)
        (take_steps if mode == "steps" else leave_and_go_on)(world, group)
    assert group is not None
    group.barrier("the end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    sys.stdout.flush()
    # Not an orderly exit: destructors of communicators abort now and then.
    os._exit(0)

"""A run that is left alone, and the same plan killed at a random moment and gone on with."""

import os
import random
import shutil
import signal
from collections.abc import Callable

from .tiny import Run, World


def finish(runs: list[Run]) -> None:
    """Wait for runs that succeed."""
    for run in runs:
        assert run.wait() == 0, run.tail()


def killed_after(calm: World, pods: Callable[..., list[Run]], workers: int, steps: int) -> None:
    """Train the world's plan undisturbed, then again with a kill: both must end with the same bits."""
    finish(pods(calm, workers))
    # The same plan has the same digest only with the same paths: the killed run is trained in a copy of the first
    # world's inputs, under the same names.
    kept = calm.result()
    shutil.move(calm.workspace, calm.root / "undisturbed")

    # Not before a checkpoint is there, and not after the run is over; within that, anywhere.
    moment = random.Random(os.urandom(8))
    step, rank, wait = moment.randint(2, steps - 2), moment.randrange(workers), moment.uniform(0, 0.2)
    first = pods(calm, workers, attempt=1)
    first[0].until_step(step)
    first[0].until(lambda run: bool(run.events("checkpoint")))
    try:
        first[0].process.wait(wait)
    except Exception:
        victim = first[rank].ranks()
        if victim:
            os.kill(victim[0], signal.SIGKILL)
    codes = [run.wait() for run in first]
    said = f"killed rank {rank} {wait:.3f} s after step {step}: {codes}"
    assert all(codes), said

    finish(pods(calm, workers, attempt=2, minimum=2))
    resumed = calm.runs[-workers].events("resumed")
    assert resumed, said
    assert resumed[0]["step"] >= 2, said
    assert calm.result().policy_digest == kept.policy_digest, said
    assert calm.result().figures == kept.figures, said

"""The learning rate of a step. Optimizers are in engine.py."""

import math

from rlhf_operator.api.algorithms import Optimizer, Schedule


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """Return the rate of step 1 … `steps`: a linear rise over the warm-up, then the schedule down to its floor.

    The rate depends on the step alone, so that nothing of it needs saving.
    """
    peak = optimizer.learning_rate
    if step <= optimizer.warmup_steps:
        return peak * step / optimizer.warmup_steps
    if optimizer.schedule is Schedule.CONSTANT:
        return peak
    span = max(1, steps - optimizer.warmup_steps)
    progress = min(1.0, (step - optimizer.warmup_steps) / span)
    share = 1.0 - progress if optimizer.schedule is Schedule.LINEAR else 0.5 * (1.0 + math.cos(math.pi * progress))
    floor = optimizer.min_learning_rate_ratio
    return peak * (floor + (1.0 - floor) * share)

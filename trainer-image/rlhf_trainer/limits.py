"""Which figure passes which guard's limit at one step. Pure; patience and actions are in guards.py."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api.base import Model
from rlhf_operator.api.guards import (
    DEFAULT_DROP,
    AllMaskedGuard,
    EntropyGuard,
    KLGuard,
    LogProbDriftGuard,
    NonFiniteGuard,
    RewardHackingGuard,
    RewardSaturationGuard,
    SlowConvergenceGuard,
)
from rlhf_operator.api.plan import PlanGuard

LENGTH_RATIO = "lengthRatio"
"""Mean length of a step's responses over that of step 1, which are the reference model's: nothing was updated yet."""


class Unmeasured(Exception):
    """A figure that a guard looks at is not there at this step."""


class Best(Model):
    """The best mean of a monitor, and the reward at that step."""

    step: int
    monitor: float
    reward: float


@dataclass(frozen=True)
class Seen:
    """What a guard judges by."""

    step: int
    figures: Mapping[str, float]
    best: Best | None = None
    """Of the guard's monitor, up to this step."""

    def figure(self, name: str) -> float:
        """Return a figure. Raises Unmeasured."""
        if name not in self.figures:
            raise Unmeasured(name)
        return self.figures[name]


def passed(guard: PlanGuard, seen: Seen) -> str | None:
    """Say how a step passes the guard's limit: figure, value, limit, and by how much. None: it does not.

    Raises Unmeasured, naming the figure that is not there.
    """
    limit, look = next((limit, look) for kind, look in _LIMITS.items() if (limit := getattr(guard, kind)) is not None)
    return look(limit, seen)


def monitored(guard: PlanGuard, seen: Seen) -> Best | None:
    """The best mean of the guard's monitor with this step's; None while there was none."""
    hacking, best = guard.reward_hacking, seen.best
    if hacking is None or hacking.monitor is None:
        return None
    mean, reward = seen.figures.get(f"score/{hacking.monitor}"), seen.figures.get("reward")
    if mean is None or reward is None or not (math.isfinite(mean) and math.isfinite(reward)):
        return best
    return Best(step=seen.step, monitor=mean, reward=reward) if best is None or mean > best.monitor else best


def _kl(limit: KLGuard, seen: Seen) -> str | None:
    return _above("KL", " nats per response", seen.figure("kl"), limit.max)


def _slow_convergence(limit: SlowConvergenceGuard, seen: Seen) -> str | None:
    # At step 1 nothing has been updated: the policy is the reference model.
    return None if seen.step == 1 else _below("KL", " nats per response", seen.figure("kl"), limit.min_kl)


def _entropy(limit: EntropyGuard, seen: Seen) -> str | None:
    return _below("entropy", " nats per token", seen.figure("entropy"), limit.min)


def _log_prob_drift(limit: LogProbDriftGuard, seen: Seen) -> str | None:
    words = "the log-probabilities' mean distance between sampler and trainer"
    return _above(words, " nats per token", seen.figure("logProbDrift"), limit.max)


def _all_masked(limit: AllMaskedGuard, seen: Seen) -> str | None:
    if seen.figure("maskedShare") < 1.0:
        return None
    return (
        "maskedShare is 1: every response of the batch was left out of the loss, where the limit is any that is in it"
    )


def _non_finite(limit: NonFiniteGuard, seen: Seen) -> str | None:
    bad = sorted(name for name, value in seen.figures.items() if not math.isfinite(value))
    return f"{', '.join(bad[:5])} not finite, where the limit is any finite number" if bad else None


def _reward_saturation(limit: RewardSaturationGuard, seen: Seen) -> str | None:
    shares = {name: value for name, value in seen.figures.items() if name.startswith("shareAtBound/")}
    if not shares:
        raise Unmeasured("shareAtBound")
    name = max(shares, key=lambda each: shares[each])
    return _above(name, "", shares[name], limit.max_share_at_bound)


def _reward_hacking(limit: RewardHackingGuard, seen: Seen) -> str | None:
    found = [_monitor(limit, seen)]
    if limit.min_distinct_n is not None:
        found.append(_below("distinct2", "", seen.figure("distinct2"), limit.min_distinct_n))
    if limit.max_length_ratio is not None:
        found.append(_above(LENGTH_RATIO, "", seen.figure(LENGTH_RATIO), limit.max_length_ratio))
    return " and ".join(words for words in found if words is not None) or None


def _monitor(limit: RewardHackingGuard, seen: Seen) -> str | None:
    if limit.monitor is None:
        return None
    name = f"score/{limit.monitor}"
    mean, reward, best = seen.figure(name), seen.figure("reward"), seen.best
    if best is None:
        return None
    drop = DEFAULT_DROP if limit.drop is None else limit.drop
    fall = best.monitor - mean
    if not (fall > drop and reward > best.reward):
        return None
    return (
        f"{name} is {mean:.4g}, {fall:.4g} below its best {best.monitor:.4g} of step {best.step} (limit: a drop of "
        f"{drop:g}), while the reward rose from {best.reward:.4g} to {reward:.4g}"
    )


def _above(name: str, unit: str, value: float, limit: float) -> str | None:
    # A figure that is not a number is nonFinite's business; "not <=" would call it a passed limit here.
    return f"{name} is {value:.4g}{unit}, {value - limit:.3g} above the limit {limit:g}" if value > limit else None


def _below(name: str, unit: str, value: float, limit: float) -> str | None:
    return f"{name} is {value:.4g}{unit}, {limit - value:.3g} below the limit {limit:g}" if value < limit else None


_LIMITS: dict[str, Callable[[Any, Seen], str | None]] = {
    "kl": _kl,
    "slow_convergence": _slow_convergence,
    "entropy": _entropy,
    "reward_hacking": _reward_hacking,
    "reward_saturation": _reward_saturation,
    "all_masked": _all_masked,
    "log_prob_drift": _log_prob_drift,
    "non_finite": _non_finite,
}

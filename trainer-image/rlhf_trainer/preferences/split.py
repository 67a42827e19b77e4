"""Who trains and who is measured: parts by prompt group, never by row, the same for the same seed. Pure."""

import hashlib
from collections.abc import Iterable, Sequence
from enum import IntEnum

from rlhf_trainer.errors import ConfigError

CALIBRATION_SHARE = 0.1
"""Share of the training prompts on which only the temperature is fitted, and choices are made."""


class Part(IntEnum):
    """What a prompt group is for, in one round of training and measuring."""

    TRAIN = 0
    CALIBRATION = 1
    HELD_OUT = 2
    UNUSED = 3


Assignment = dict[int, Part]
"""Prompt group → part."""


def held_out(groups: Iterable[int], fraction: float, seed: int) -> Assignment:
    """One round: a share of the groups is held out, a share of the rest is for calibration."""
    order = _order(groups, seed, "held out")
    _enough(order, 2)
    count = min(len(order) - 1, max(1, round(fraction * len(order))))
    return dict.fromkeys(order[:count], Part.HELD_OUT) | training(order[count:], seed)


def folds(groups: Iterable[int], count: int, seed: int) -> list[Assignment]:
    """One round for each fold; every group is held out exactly once."""
    order = _order(groups, seed, "folds")
    _enough(order, count)
    rounds = []
    for fold in range(count):
        out = order[fold::count]
        kept = [group for at, group in enumerate(order) if at % count != fold]
        rounds.append(dict.fromkeys(out, Part.HELD_OUT) | training(kept, seed))
    return rounds


def training(groups: Iterable[int], seed: int) -> Assignment:
    """Training and calibration alone. A set too small to spare a tenth has no calibration part."""
    order = _order(groups, seed, "calibration")
    count = round(CALIBRATION_SHARE * len(order))
    return dict.fromkeys(order[:count], Part.CALIBRATION) | dict.fromkeys(order[count:], Part.TRAIN)


def measuring(groups: Iterable[int], seed: int, *, calibrate: bool) -> Assignment:
    """Data that is only measured on: a part for the temperature where there is one to fit, the rest held out."""
    order = _order(groups, seed, "calibration")
    count = round(CALIBRATION_SHARE * len(order)) if calibrate else 0
    return dict.fromkeys(order[:count], Part.CALIBRATION) | dict.fromkeys(order[count:], Part.HELD_OUT)


def _order(groups: Iterable[int], seed: int, purpose: str) -> list[int]:
    """A shuffle that depends on the groups themselves, not on their order."""

    def rank(group: int) -> bytes:
        return hashlib.blake2b(f"{seed}/{purpose}/{group}".encode(), digest_size=16).digest()

    return sorted(set(groups), key=rank)


def _enough(order: Sequence[int], wanted: int) -> None:
    if len(order) < wanted:
        raise ConfigError(
            f"the data has {len(order)} different prompts; splitting by prompt into {wanted} parts needs at least "
            f"{wanted}: add data, or ask for fewer folds",
            reason="TooFewPrompts",
        )

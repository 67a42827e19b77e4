"""What one annotator's cell says about the responses of a row: ranks. Which rows and columns there are is elsewhere."""

import math
import re
from typing import Any

from rlhf_trainer.data.cells import Unusable, shown, verdict_of
from rlhf_trainer.data.reasons import DropReason

Ranks = tuple[int | None, ...]
"""A rank for each response: 1 is best, equal ranks tie, None was not judged."""

_ORDER_CHARACTERS = 200
_ORDER = re.compile(r"\s*\d{1,2}(?:\s*[>=]\s*\d{1,2})*\s*")
_PAIR: dict[int, Ranks] = {0: (1, 1), 1: (1, 2), 2: (2, 1)}


def ranks_of(name: str, value: Any, responses: int) -> Ranks | None:
    """The ranks in one cell; None where the annotator did not judge. Raises Unusable.

    Two responses: 0 tie, 1 first, 2 second. Any number: the responses' numbers from best to worst ("2>1=3"), or a list
    with a rank for each response (1 is best, null not judged).
    """
    if value is None:
        return None
    if isinstance(value, list):
        return _listed(name, value, responses)
    if isinstance(value, str) and any(sign in value for sign in "><="):
        return _ordered(name, value, responses)
    if responses == 2:
        return _PAIR[verdict_of(name, value)]
    raise Unusable(
        DropReason.BAD_LABEL,
        f'{name} is {shown(value)}; write the responses from best to worst ("2>1=3") or a list of their ranks',
    )


def number_of(name: str, value: Any) -> float:
    """A finite number: a Scalar row's score. Raises Unusable."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unusable(DropReason.BAD_LABEL, f"{name} is {shown(value)}; it must be a number")
    return float(value)


def preference(ranks: Ranks | None, first: int, second: int) -> float | None:
    """1, ½ or 0: whether the first response is better; None when either was not judged."""
    if ranks is None:
        return None
    ours, theirs = ranks[first], ranks[second]
    if ours is None or theirs is None:
        return None
    return 1.0 if ours < theirs else 0.0 if ours > theirs else 0.5


def _listed(name: str, value: list[Any], responses: int) -> Ranks:
    whole = all(
        each is None
        or (isinstance(each, int | float) and not isinstance(each, bool) and each in range(1, responses + 1))
        for each in value
    )
    if len(value) != responses or not whole:
        raise Unusable(
            DropReason.BAD_LABEL,
            f"{name} is {shown(value)}; a list must hold a rank from 1 (best) to {responses} for each response",
        )
    return tuple(None if each is None else int(each) for each in value)


def _ordered(name: str, value: str, responses: int) -> Ranks:
    problem = Unusable(
        DropReason.BAD_LABEL, f'{name} is {shown(value)}; an order names responses 1 to {responses} once: "2>1=3"'
    )
    if len(value) > _ORDER_CHARACTERS or not _ORDER.fullmatch(value):
        raise problem
    ranks: list[int | None] = [None] * responses
    for rank, tied in enumerate(value.split(">"), start=1):
        for part in tied.split("="):
            at = int(part) - 1
            if not 0 <= at < responses or ranks[at] is not None:
                raise problem
            ranks[at] = rank
    return tuple(ranks)

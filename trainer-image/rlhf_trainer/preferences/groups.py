"""Prompts that must not be torn apart by a split: the same, or nearly the same. Pure."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from rlhf_trainer.data.checks import NEAR_DUPLICATE_ROWS
from rlhf_trainer.data.similarity import NearIndex, signatures


class Grouped(NamedTuple):
    """Prompts by group."""

    group: dict[bytes, int]
    """Prompt's key → number of its group."""
    near: int
    """Prompts that joined the group of another one."""


def group_prompts(prompts: Iterable[tuple[bytes, str]]) -> Grouped:
    """Number the groups from 0 in order of appearance. Beyond 20 000 different prompts only equal ones are found.

    prompts: keys and texts, each prompt once. Nearly the same: as for duplicates (data/similarity.py).
    """
    rest = iter(prompts)
    looked_at = list(islice(rest, NEAR_DUPLICATE_ROWS))
    index = NearIndex()
    group: dict[bytes, int] = {}
    near, count = 0, 0
    texts = ((at, text) for at, (_, text) in enumerate(looked_at))
    for (own, _), signature in zip(looked_at, signatures(texts), strict=True):
        earlier = index.find(signature)
        if earlier is None:
            index.add(signature)
            group[own] = count
            count += 1
        else:
            group[own] = group[looked_at[earlier][0]]
            near += 1
    for own, _ in rest:
        group[own] = count
        count += 1
    return Grouped(group, near)

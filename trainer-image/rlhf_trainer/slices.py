"""Scores by parts of the evaluation data: which value of which column fell how far. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from rlhf_operator.api.result import SliceScore

VALUE_CHARACTERS = 64


def values_of(fields: Mapping[str, object], columns: Sequence[str]) -> dict[str, str]:
    """One row's value in each of the columns, as text; a column that the row lacks is left out."""
    return {name: str(fields[name])[:VALUE_CHARACTERS] for name in columns if fields.get(name) is not None}


def slice_scores(
    scorer: str,
    slices: Sequence[Mapping[str, str]],
    policy: Sequence[float | None],
    base: Sequence[float | None],
) -> list[SliceScore]:
    """Mean scores of policy and base model in every slice, the one that fell furthest first.

    slices: each row's value by column. Rows that lack a score on either side are left out.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for values, ours, theirs in zip(slices, policy, base, strict=True):
        if ours is not None and theirs is not None:
            for column, value in values.items():
                found[column, value].append((ours, theirs))
    scores = [
        SliceScore(
            scorer=scorer,
            column=column,
            value=value,
            mean=sum(ours for ours, _ in pairs) / len(pairs),
            baseline_mean=sum(theirs for _, theirs in pairs) / len(pairs),
            samples=len(pairs),
        )
        for (column, value), pairs in found.items()
    ]
    return sorted(scores, key=lambda each: (-each.drop, each.column, each.value))

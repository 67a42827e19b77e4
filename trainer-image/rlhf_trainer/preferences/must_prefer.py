"""mustPrefer: a person's pairs that must all come out right. Read with bounds; broken ones stop the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_operator.api.plan import PlanSource
from rlhf_trainer.data.cells import Unusable, check_encodable, string_of, text_of
from rlhf_trainer.data.reasons import DropReason
from rlhf_trainer.data.sources import Source
from rlhf_trainer.errors import ConfigError

from .measures import MissedPair, MustPreferReport

MAX_PAIRS = 10_000
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class MustPrefer:
    """One pair."""

    row: int
    prompt: str
    chosen: str
    rejected: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """All columns of the row: what graders see beside the texts."""


def read_must_prefer(source: PlanSource) -> list[MustPrefer]:
    """The pairs of a file with `prompt`, `chosen`, `rejected`. Raises ConfigError: none may be left out."""
    found: list[MustPrefer] = []
    rows = Source(source.path, source.ref)
    if source.digest is not None and source.digest != (digest := rows.digest()):
        raise ConfigError(f"mustPrefer: {source.ref} has digest {digest}, wanted {source.digest}", "DigestMismatch")
    for each in rows.rows():
        if len(found) == MAX_PAIRS:
            raise ConfigError(f"mustPrefer: {source.ref} holds more than {MAX_PAIRS} pairs", "InvalidMustPrefer")
        if each.value is None:
            raise _broken(source, each.number, each.detail)
        try:
            prompt = string_of(each.value, "prompt", DropReason.NON_STRING_PROMPT)
            chosen, rejected = text_of(each.value, "chosen"), text_of(each.value, "rejected")
            for text in (prompt, chosen, rejected):
                check_encodable(text)
        except Unusable as problem:
            raise _broken(source, each.number, problem.detail) from problem
        if chosen == rejected:
            raise _broken(source, each.number, "chosen and rejected are the same")
        found.append(MustPrefer(each.number, prompt, chosen, rejected, each.value))
    if not found:
        raise ConfigError(f"mustPrefer: {source.ref} holds no pairs", "InvalidMustPrefer")
    return found


def must_prefer(
    pairs: Sequence[MustPrefer], chosen: Sequence[float | None], rejected: Sequence[float | None]
) -> MustPreferReport:
    """Which pairs came out wrong: an equal or a missing score is not right."""
    missed = [
        MissedPair(row=pair.row, prompt=pair.prompt[:_SHOWN], chosen_score=ours, rejected_score=theirs)
        for pair, ours, theirs in zip(pairs, chosen, rejected, strict=True)
        if ours is None or theirs is None or not ours > theirs
    ]
    return MustPreferReport(pairs=len(pairs), missed=tuple(missed))


def _broken(source: PlanSource, row: int, detail: str) -> ConfigError:
    return ConfigError(
        f"mustPrefer: row {row} of {source.ref} can't be used: {detail}. Every pair must count: mend it, or remove it",
        "InvalidMustPrefer",
    )

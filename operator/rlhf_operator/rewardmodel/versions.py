"""The versions of a RewardModel: which were made, in which order, which one is in use, which are kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from rlhf_operator.api.result import AGREEMENT_ALPHA, DROPPED_ROWS, ArtifactRecord, TerminationMessage
from rlhf_operator.api.rewardmodel import RewardModelSpec, RewardModelVersion
from rlhf_operator.api.scorerfile import ScorerKind
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.reasons import Reason

from .gate import limits_of

FAILED = "Failed"
WORDS = 512


@dataclass(frozen=True, slots=True)
class Choice:
    """The version in use, and why it is not the one that the user may expect."""

    version: RewardModelVersion | None
    reason: str = ""
    message: str = ""


def usable(version: RewardModelVersion) -> bool:
    """Whether it may be served and used."""
    return version.gate is not None and version.gate != FAILED and bool(version.ref)


def made(
    spec: RewardModelSpec, record: ArtifactRecord, verdict: TerminationMessage | None, now: datetime
) -> RewardModelVersion:
    """Return the version of a publish pod's record."""
    figures = verdict.reward if verdict is not None else None
    more = verdict.figures if verdict is not None else {}
    return RewardModelVersion(
        digest=record.digest,
        alias=record.alias,
        gate=record.gate,
        message=cut(record.gate_message, WORDS) or None,
        limits=limits_of(spec),
        ref=record.ref,
        plan_digest=record.plan_digest,
        scorer=(ScorerKind.GRADERS if spec.source.graders else ScorerKind.MODEL).value,
        dimensions=list(spec.dimensions),
        accuracy=figures.accuracy if figures is not None else None,
        accuracy_interval=list(figures.accuracy_interval or ()) if figures is not None else [],
        calibration_error=figures.calibration_error if figures is not None else None,
        length_bias=figures.length_bias if figures is not None else None,
        agreement_alpha=more.get(AGREEMENT_ALPHA),
        dropped_rows=int(more[DROPPED_ROWS]) if DROPPED_ROWS in more else None,
        at=now,
    )


def recorded(versions: Sequence[RewardModelVersion], new: RewardModelVersion) -> list[RewardModelVersion]:
    """Return the versions with one that was just judged at their head; the same content is the same version."""
    return [new, *(each for each in versions if each.digest != new.digest)]


def judged(versions: Sequence[RewardModelVersion], plan_digest: str, limits: dict[str, float]) -> str | None:
    """Return the version that a plan made and these limits judged, if there is one."""
    return next((each.digest for each in versions if each.plan_digest == plan_digest and each.limits == limits), None)


def brought_forward(versions: Sequence[RewardModelVersion], digest: str) -> list[RewardModelVersion]:
    """Return the versions with this one first: the spec went back to what made it."""
    return sorted(versions, key=lambda each: each.digest != digest)


def choose(versions: Sequence[RewardModelVersion], pinned: str | None) -> Choice:
    """Return the version in use: the pinned one, else the first that may be used."""
    newest = next(filter(usable, versions), None)
    if pinned is None:
        return Choice(newest)
    held = next((each for each in versions if each.digest == pinned), None)
    if held is not None and usable(held):
        return Choice(held, Reason.VERSION_PINNED, f"pinnedVersion {pinned}")
    why = "is not among status.versions" if held is None else f"has failed its gate ({held.message or 'no words'})"
    goes_on = f"; {newest.digest} goes on" if newest is not None else ""
    words = f"pinnedVersion {pinned} {why}: choose another, or remove pinnedVersion{goes_on}"
    return Choice(newest, Reason.PINNED_VERSION_UNKNOWN, words)


def kept(versions: Sequence[RewardModelVersion], limit: int, in_use: Collection[str]) -> list[RewardModelVersion]:
    """Return the newest `limit` versions and those in use, in their order."""
    return [each for place, each in enumerate(versions) if place < limit or each.digest in in_use]

"""The inputs of a run for status: as the frozen plan names them, and what the trainer resolved them to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_operator.api.jobstatus import ResolvedSource
from rlhf_operator.api.result import Progress

from .decision import Decision


def resolved_sources(
    before: Sequence[ResolvedSource], reading: Progress | None, decision: Decision
) -> list[ResolvedSource]:
    """Return the inputs by their field. What was resolved once stays: every attempt uses it."""
    known = list(before) or _planned(decision)
    told = [*(reading.sources if reading is not None else ()), *(decision.verdict.sources if decision.verdict else ())]
    by_field = {each.field: each for each in told}
    return [
        source.model_copy(update={"revision": found.revision, "digest": found.digest})
        if (found := by_field.get(source.field)) is not None
        else source
        for source in known
    ]


def _planned(decision: Decision) -> list[ResolvedSource]:
    plan = decision.plan.plan if decision.plan is not None else None
    inputs = plan.inputs() if plan is not None else ()
    return [ResolvedSource(field=field, ref=source.ref, digest=source.digest) for field, source in inputs]

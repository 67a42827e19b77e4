"""The whole status of a PolicyRollout from one observation and what was decided. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rlhf_operator.api.meta import EffectiveStatus
from rlhf_operator.api.rolloutstatus import HistoryEntry, MetricStatus, RejectedRevision, ScorerStatus, Variant
from rlhf_operator.common.conditions import TRUE, Condition, cut, merge

from .analysis import Analysis
from .decision import Decision
from .metrics import InForce
from .recorded import CANDIDATE, STABLE, candidate_of
from .views import Observed, Traffic


def rollout_status(
    observed: Observed,
    decision: Decision,
    analysis: Analysis | None,
    metrics: InForce,
    scorers: Sequence[ScorerStatus],
    shown: Traffic | None,
    conditions: Sequence[Condition],
    now: datetime,
) -> dict[str, Any]:
    """Return the status as it is to be written, in Kubernetes' spelling. shown: the traffic that it speaks of."""
    # Kubernetes keeps whole seconds; anything finer would differ from what is read back.
    now = now.replace(microsecond=0)
    before = observed.status
    step = decision.step
    if step is not None and analysis is not None and analysis.samples is not None:
        step = step.model_copy(update={"samples": analysis.samples})
    status = before.model_copy(
        update={
            "observed_generation": observed.generation,
            "phase": _phase(conditions, shown),
            "message": cut(_message(observed, decision, conditions)),
            "effective": EffectiveStatus(metrics=[each.metric.name for each in metrics.metrics]),
            "variants": _variants(observed, decision, shown),
            "step": step.model_copy(update={"started_at": _whole(step.started_at)}) if step is not None else None,
            "analysis": [_metric(each) for each in _measured(observed, analysis, shown)],
            "scorers": [each.model_copy(update={"since": _whole(each.since)}) for each in scorers],
            "last_command": decision.consumed or before.last_command,
            "rejected": _rejected(shown) if shown is not None else list(before.rejected),
            "history": [_entry(each) for each in _explained(observed, decision, analysis)],
        }
    )
    written = status.dump()
    command = written.get("lastCommand")
    if command and status.last_command is not None and status.last_command.at is not None:
        written["lastCommand"] = status.last_command.model_copy(update={"at": _whole(status.last_command.at)}).dump()
    written["conditions"] = merge(before.conditions, conditions, observed.generation, now)
    return {name: value for name, value in written.items() if value not in (None, [], {})}


def _variants(observed: Observed, decision: Decision, shown: Traffic | None) -> list[Variant]:
    if shown is None:
        # Without a route this is all that is remembered of what served.
        return list(observed.status.variants)
    weight = shown.weight if shown.candidate else 0
    found = [_variant(observed, STABLE, shown.stable, 100 - weight, None, decision.stable_since)]
    if shown.candidate:
        found.append(_variant(observed, CANDIDATE, shown.candidate, weight, shown.mirror, decision.candidate_since))
    return found


def _variant(
    observed: Observed, name: str, revision: str, weight: int, mirror: int | None, since: datetime | None
) -> Variant:
    known, pods = observed.revisions.get(revision), observed.pods.get(revision)
    # What the route names and no record knows any more keeps what status said of it.
    before = next((each for each in observed.status.variants if each.revision == revision), Variant(name=name))
    return Variant(
        name=name,
        revision=revision,
        digest=known.digest if known is not None else before.digest,
        ref=known.ref if known is not None else before.ref,
        weight=weight,
        mirror_percent=mirror,
        ready=pods.ready if pods is not None else 0,
        replicas=pods.replicas if pods is not None else 0,
        since=_whole(since),
    )


def _measured(observed: Observed, analysis: Analysis | None, shown: Traffic | None) -> Sequence[MetricStatus]:
    """Return the last round: what decided about a rollout stays until the next begins."""
    if analysis is not None and analysis.metrics:
        return analysis.metrics
    starts = shown is not None and shown.candidate and shown.index < 0
    return [] if starts else observed.status.analysis


def _explained(observed: Observed, decision: Decision, analysis: Analysis | None) -> Sequence[HistoryEntry]:
    """Return the history; a candidate that this very round has ended is explained by its figures, not the former's."""
    history, before = decision.history, observed.status.history
    if analysis is None or not analysis.metrics or not history or list(history[:1]) == before[:1]:
        return history
    if history[0].revision != candidate_of(observed.status):
        return history
    return (history[0].model_copy(update={"metrics": list(analysis.metrics)}), *history[1:])


def _metric(status: MetricStatus) -> MetricStatus:
    return status.model_copy(update={"at": _whole(status.at)})


def _rejected(shown: Traffic) -> list[RejectedRevision]:
    return [
        RejectedRevision(revision=each.revision, reason=str(each.reason), message=each.message, at=_whole(each.at))
        for each in shown.rejected
    ]


def _entry(entry: HistoryEntry) -> HistoryEntry:
    return entry.model_copy(
        update={
            "from_": _whole(entry.from_),
            "to": _whole(entry.to),
            "metrics": [_metric(each) for each in entry.metrics],
        }
    )


def _whole(moment: datetime | None) -> datetime | None:
    return moment.replace(microsecond=0) if moment is not None else None


def _phase(conditions: Sequence[Condition], shown: Traffic | None) -> str:
    found: Mapping[str, Condition] = {each.type: each for each in conditions}
    for kind, phase in (("Stalled", "Stalled"), ("Paused", "Paused")):
        if found[kind].status == TRUE:
            return phase
    if found["Ready"].status != TRUE:
        return "Starting" if shown is None else "NotServing"
    if shown is not None and shown.candidate:
        return "Progressing"
    return "RolledBack" if found["RolledBack"].status == TRUE else "Serving"


def _message(observed: Observed, decision: Decision, conditions: Sequence[Condition]) -> str:
    """Return what stands in the way, else what happens, else what is so."""
    found = {each.type: each for each in conditions}
    for kind in ("Stalled", "Paused"):
        if found[kind].status == TRUE and found[kind].message:
            return found[kind].message
    if decision.outlook.message:
        return decision.outlook.message
    return observed.wanted.message or found["Ready"].message

"""The whole status of a RewardModel from one observation and what was decided. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rlhf_operator.api.jobstatus import Attempt
from rlhf_operator.api.meta import EffectiveStatus
from rlhf_operator.api.rewardmodel import RewardModelRun, RewardModelSpec
from rlhf_operator.common.conditions import TRUE, Condition, cut, merge
from rlhf_operator.runs.budget import cost
from rlhf_operator.runs.decision import Phase
from rlhf_operator.runs.progress import checkpoint_status, progress_status
from rlhf_operator.runs.resolved import resolved_sources

from . import children
from .conditions import wanted_conditions
from .gate import limits_of
from .making import Making
from .run import run_spec
from .serving import Serving
from .versions import Choice, kept
from .views import Observed


def reward_model_status(
    observed: Observed, spec: RewardModelSpec, making: Making, choice: Choice, serving: Serving, now: datetime
) -> Mapping[str, Any]:
    """Return the status as it is to be written, in Kubernetes' spelling."""
    # Kubernetes keeps whole seconds; anything finer would differ from what is read back.
    now = now.replace(microsecond=0)
    before = observed.status
    conditions = wanted_conditions(observed, spec, making, choice, serving)
    versions = [
        version.model_copy(
            update={
                "url": children.url(observed.owner, version.digest) if version.digest in serving.answering else None
            }
        )
        for version in kept(making.versions, spec.versions_limit, serving.in_use)
    ]
    run = _run(observed, spec, making, now)
    numbers = [record.number for record in run.attempts] if run is not None else []
    since = serving.since.replace(microsecond=0) if serving.since is not None else None
    status = before.model_copy(
        update={
            "observed_generation": observed.generation,
            "phase": _phase(making, choice, conditions),
            "message": cut(_message(conditions)),
            "effective": EffectiveStatus(metrics=[f"{name}={limit:g}" for name, limit in limits_of(spec).items()]),
            "run": run,
            "attempts_made": max([before.attempts_made or 0, *numbers]) or None,
            "current_version": choice.version.digest if choice.version is not None else None,
            "served_version": serving.served,
            "served_since": since,
            "url": serving.url,
            "versions": versions,
        }
    )
    written = status.dump()
    written["conditions"] = merge(before.conditions, conditions, observed.generation, now)
    return {name: value for name, value in written.items() if value not in (None, [], {})}


def _run(observed: Observed, spec: RewardModelSpec, making: Making, now: datetime) -> RewardModelRun | None:
    """Return what is known of the wanted version's run; that of another plan goes when a new one begins."""
    decision, before = making.decision, observed.status.run
    if decision is None:
        return before
    recorded = observed.run.status
    start = next((each.from_ for each in decision.ledger.records if each.from_ is not None), None)
    same = before is not None and before.plan_digest == recorded.plan_digest
    gave_up = decision.phase is Phase.FAILED and decision.artifact is None
    return RewardModelRun(
        plan_digest=decision.plan.digest if decision.plan is not None else recorded.plan_digest,
        resolved=resolved_sources(
            before.resolved if same and before is not None else [], observed.run.progress, decision
        ),
        progress=progress_status(recorded, observed.run.progress, decision.verdict, now),
        checkpoint=checkpoint_status(recorded, observed.run.progress, decision.verdict),
        attempts=[_whole_seconds(each) for each in decision.ledger.records],
        restarts=decision.ledger.restarts,
        cost=cost(decision.ledger, run_spec(observed.owner, spec), now, observed.defaults.progress_interval_seconds),
        start_time=(before.start_time if same and before is not None else None) or start,
        failed=decision.reason if gave_up else None,
        message=cut(decision.message) if gave_up else None,
        generation=observed.generation,
    )


def _whole_seconds(record: Attempt) -> Attempt:
    moments = {name: getattr(record, name) for name in ("from_", "to")}
    return record.model_copy(
        update={name: moment.replace(microsecond=0) for name, moment in moments.items() if moment is not None}
    )


def _phase(making: Making, choice: Choice, conditions: list[Condition]) -> str:
    found = {each.type: each for each in conditions}
    if found["Stalled"].status == TRUE:
        return Phase.STALLED.value
    if making.decision is not None and making.version is None:
        return making.decision.phase.value
    if found["Reconciling"].status == TRUE:
        return Phase.STARTING.value
    return "Ready" if found["Ready"].status == TRUE else "NotServed"


def _message(conditions: list[Condition]) -> str:
    """Return what stands in the way, else what happens, else what is so."""
    found = {each.type: each for each in conditions}
    for name in ("Stalled", "Reconciling"):
        if found[name].status == TRUE:
            return found[name].message
    return found["Serving"].message if found["Ready"].status == TRUE else found["Ready"].message

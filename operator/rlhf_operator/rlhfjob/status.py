"""The whole status of a job from one observation and one decision. Pure; conditions are in conditions.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rlhf_operator.api.jobstatus import Artifact, EvaluationStatus, RewardModelUse, RLHFJobStatus
from rlhf_operator.api.meta import EffectiveStatus
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.conditions import cut, merge
from rlhf_operator.runs.budget import cost
from rlhf_operator.runs.decision import Decision, Phase
from rlhf_operator.runs.progress import checkpoint_status, progress_status
from rlhf_operator.runs.resolved import resolved_sources

from .conditions import wanted_conditions
from .gate import evaluation_status
from .plan import guards_in_force
from .run import run_spec
from .views import Observed


def job_status(observed: Observed, spec: RLHFJobSpec, decision: Decision, now: datetime) -> Mapping[str, Any]:
    """Return the status as it is to be written, in Kubernetes' spelling."""
    # Kubernetes keeps whole seconds; anything finer would differ from what is read back.
    now = now.replace(microsecond=0)
    before = observed.status
    ledger = decision.ledger
    status = before.model_copy(
        update={
            "observed_generation": observed.generation,
            "phase": decision.phase.value,
            "message": cut(decision.message),
            "algorithm": spec.algorithm.value,
            "plan_digest": decision.plan.digest if decision.plan is not None else before.plan_digest,
            "effective": effective(spec),
            "resolved": resolved_sources(before.resolved, observed.progress, decision),
            "reward_models": before.reward_models or _reward_models(spec, decision),
            "progress": progress_status(before, observed.progress, decision.verdict, now),
            "checkpoint": checkpoint_status(before, observed.progress, decision.verdict),
            "attempts": [_whole_seconds(record) for record in ledger.records],
            "restarts": ledger.restarts,
            "evaluation": _evaluation(before, spec, decision),
            "cost": cost(ledger, run_spec(observed.owner, spec), now, observed.defaults.progress_interval_seconds),
            "artifact": _artifact(observed, decision),
            "start_time": before.start_time or next((r.from_ for r in ledger.records if r.from_ is not None), None),
            "completion_time": now if decision.phase.terminal else None,
        }
    )
    written = status.dump()
    written["conditions"] = merge(
        before.conditions, wanted_conditions(observed, spec, decision, status), observed.generation, now
    )
    return {name: value for name, value in written.items() if value not in (None, [], {})}


def _reward_models(spec: RLHFJobSpec, decision: Decision) -> list[RewardModelUse]:
    """Return the versions that the frozen plan uses: while the job is not finished they are kept for it."""
    if all(scorer.reward_model_ref is None for scorer in spec.scorers):
        # A plan is parsed only where it is needed.
        return []
    plan = decision.plan.plan if decision.plan is not None else None
    if not isinstance(plan, TrainingPlan):
        return []
    uses = [scorer.reward_model for scorer in plan.scorers if scorer.reward_model is not None]
    return [RewardModelUse(name=each.name, version=each.version or "", url=each.url, path=each.path) for each in uses]


def effective(spec: RLHFJobSpec) -> EffectiveStatus:
    """Return what is in force by name: what the API server dropped as unknown is missing here."""
    metrics = [f"{each}:{baseline.value}" for each in _judges(spec) for baseline in _baselines(spec)]
    if spec.evaluation is not None:
        metrics += [f"suite:{suite.name}" for suite in spec.evaluation.suites]
        slices = spec.evaluation.slices
        metrics += [f"slices:{column}" for column in slices.columns] if slices is not None else []
    return EffectiveStatus(
        guards=[f"{guard.name}={guard.action.value}" for guard in guards_in_force(spec)],
        metrics=metrics,
        rewards=[f"{reward.scorer}={reward.weight:g}" for reward in spec.rewards],
    )


def _judges(spec: RLHFJobSpec) -> list[str]:
    return list(spec.evaluation.scorers) if spec.evaluation is not None else []


def _baselines(spec: RLHFJobSpec) -> list[Any]:
    return list(spec.evaluation.baselines) if spec.evaluation is not None else []


def _whole_seconds(record: Any) -> Any:
    trimmed = {
        name: moment.replace(microsecond=0) for name in ("from_", "to") if (moment := getattr(record, name)) is not None
    }
    return record.model_copy(update=trimmed)


def _evaluation(before: RLHFJobStatus, spec: RLHFJobSpec, decision: Decision) -> EvaluationStatus | None:
    if decision.verdict is not None and decision.phase is Phase.PUBLISHING:
        return evaluation_status(decision.verdict, spec)
    measured = before.evaluation
    if decision.artifact is None or spec.evaluation is None:
        return measured
    known = measured or EvaluationStatus()
    words = cut("; ".join(filter(None, (decision.artifact.gate_message, known.message)))) or None
    return known.model_copy(update={"gate": decision.artifact.gate, "message": words})


def _artifact(observed: Observed, decision: Decision) -> Artifact | None:
    record = decision.artifact
    if record is None:
        return observed.status.artifact
    frozen = decision.plan.plan if decision.plan is not None else None
    plan = frozen if isinstance(frozen, TrainingPlan) else None
    models = [scorer.reward_model for scorer in plan.scorers if scorer.reward_model is not None] if plan else []
    return Artifact(
        ref=record.ref,
        uri=record.uri,
        digest=record.digest,
        alias=record.alias,
        gate=record.gate,
        signed=record.signed,
        base_model_digest=record.base_model_digest,
        dataset_digests=record.dataset_digests,
        plan_digest=record.plan_digest,
        reward_models=[RewardModelUse(name=model.name, version=model.version or "") for model in models],
        parent=plan.parent_artifact.digest if plan is not None and plan.parent_artifact is not None else None,
        image=plan.image if plan is not None else None,
    )

"""What an artifact came from, read off a plan and its result. Nothing here depends on when or where the job ran."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rlhf_operator.api.plan import PlanDataset, PlanSource, TrainingPlan
from rlhf_operator.api.result import Digest, Result
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_scoring.artifact import DatasetLineage, Lineage, RewardModelLineage, SourceRecord

from .data import EVALUATION, TRAIN, WARM_START, suite_folder
from .errors import ConfigError
from .evaluate import SCORERS_FILE
from .plans import AnyPlan
from .remote.fetched import note_of

_DIGESTS = TypeAdapter(dict[str, Digest])


def lineage_of(plan: AnyPlan, workspace: Path, result: Result) -> Lineage:
    """Everything that the result of a plan came from."""
    sources = _datasets(plan)
    parent = plan.parent_artifact if isinstance(plan, TrainingPlan) else None
    base = _base(plan)
    return Lineage(
        job=f"{plan.namespace}/{plan.name}",
        plan_digest=result.plan_digest,
        image=plan.image,
        engine=result.engine,
        world_size=result.world_size,
        step=result.step,
        policy_digest=result.policy_digest,
        base_model=None
        if base is None
        else SourceRecord(ref=base.ref, digest=result.base_model_digest, revision=_revision(base)),
        parent=None if parent is None else _parent(parent),
        datasets=tuple(
            DatasetLineage(
                **record.model_dump(),
                ref=sources[record.name].ref,
                revision=_revision(sources[record.name]),
                provenance=sources[record.name].provenance,
            )
            for record in result.datasets
            if record.name in sources
        ),
        scorers=_scorer_digests(workspace),
        reward_models=_reward_models(plan),
    )


def _revision(source: PlanSource) -> str | None:
    note = note_of(source) if source.fetch is not None else None
    return note.revision if note is not None else None


def _parent(source: PlanSource) -> SourceRecord:
    note = note_of(source) if source.fetch is not None else None
    digest = source.digest or (note.digest if note is not None else None)
    return SourceRecord(ref=source.ref, digest=digest, revision=_revision(source))


def _base(plan: AnyPlan) -> PlanSource | None:
    """The model that the result was made from; graders are made from none."""
    if isinstance(plan, TrainingPlan):
        return plan.base_model
    return plan.train.base_model if plan.train is not None else plan.model


def _datasets(plan: AnyPlan) -> dict[str, PlanDataset]:
    if isinstance(plan, RewardPlan):
        found = {} if plan.train is None else {TRAIN: plan.train.dataset}
        evaluation = plan.evaluation.dataset
        return found if evaluation is None else {**found, EVALUATION: evaluation}
    found = {TRAIN: plan.dataset}
    if plan.warm_start is not None:
        found[WARM_START] = plan.warm_start.dataset
    if plan.evaluation is not None:
        found[EVALUATION] = plan.evaluation.dataset
        found |= {suite_folder(suite.name): suite.dataset for suite in plan.evaluation.suites or []}
    return found


def _reward_models(plan: AnyPlan) -> tuple[RewardModelLineage, ...]:
    if isinstance(plan, RewardPlan):
        return ()
    return tuple(
        RewardModelLineage(scorer=scorer.name, name=scorer.reward_model.name, version=scorer.reward_model.version)
        for scorer in plan.scorers
        if scorer.reward_model is not None
    )


def _scorer_digests(workspace: Path) -> dict[str, str]:
    path = workspace / SCORERS_FILE
    if not path.is_file():
        return {}
    try:
        return _DIGESTS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} does not hold the scorers' digests") from error

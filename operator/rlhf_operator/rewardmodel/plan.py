"""The spec resolved to a RewardPlan, and whether a frozen plan still is what the spec asks for. Pure."""

from __future__ import annotations

from rlhf_operator.api.plan import CONFIG_MAPS_PATH, SourceContent
from rlhf_operator.api.rewardmodel import RewardModelSpec, Split, Train
from rlhf_operator.api.rewardplan import PlanRewardEvaluation, PlanRewardTraining, PlanWeightedGrader, RewardPlan
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.names import Owner
from rlhf_operator.runs import plan as parts
from rlhf_operator.runs.storage import output_claim
from rlhf_operator.runs.views import FrozenPlan, References

FOLDER = "reward-models"
"""Where versions go on the storage claim, unless output says otherwise."""

OPERATIONAL = ("timeouts", "checkpoints")
"""Parts of a plan that decide no version: when they change nothing is trained again."""


def resolve(owner: Owner, spec: RewardModelSpec, found: References, defaults: OperatorDefaults) -> RewardPlan:
    """Return the plan of a spec whose references were found. Equal arguments give an equal plan."""
    contents, image = parts.contents_of(found), spec.compute.image or defaults.trainer_image
    return parts.placed(owner.name, lambda folder: _resolve(owner, spec, parts.Inputs(contents, folder), image))


def still_wanted(owner: Owner, spec: RewardModelSpec, frozen: FrozenPlan) -> bool:
    """Whether a frozen plan is what the spec asks for: then nothing is trained again.

    What was resolved once stays resolved: the image that an operator was released with, the content of a ConfigMap.
    Plans are compared as this version of the operator reads them, so that a field that is new to it changes nothing.
    """
    plan = frozen.plan
    if not isinstance(plan, RewardPlan):
        return False
    try:
        # A folder is named after all of a plan, and what is operational may have changed since.
        inputs = parts.Inputs(_frozen_contents(plan), parts.folder_of(plan))
        now = _resolve(owner, spec, inputs, spec.compute.image or plan.image)
    except ValueError:
        return False
    kept = {name: getattr(plan, name) for name in OPERATIONAL}
    kept["output"] = now.output.model_copy(update={"alias": plan.output.alias})
    return now.model_copy(update=kept).canonical() == plan.canonical()


def _resolve(owner: Owner, spec: RewardModelSpec, inputs: parts.Inputs, image: str) -> RewardPlan:
    return RewardPlan(
        name=owner.name,
        namespace=owner.namespace,
        image=image,
        dimensions=list(spec.dimensions),
        train=_train(spec.source.train, inputs) if spec.source.train is not None else None,
        model=parts.source(spec.source.model, inputs) if spec.source.model is not None else None,
        graders=[
            PlanWeightedGrader(
                dimension=each.dimension, weight=each.weight, scorer=parts.scorer(each.name, each.grader, inputs)
            )
            for each in spec.source.graders or ()
        ],
        evaluation=_evaluation(spec, inputs),
        compute=parts.compute(spec.compute),
        checkpoints=parts.checkpoints(spec.checkpoints),
        timeouts=parts.timeouts(spec.timeouts),
        output=parts.output(owner.name, spec.output, output_claim(owner.name, spec), FOLDER),
    )


def _train(train: Train, inputs: parts.Inputs) -> PlanRewardTraining:
    if train.training.epochs is None:
        raise ValueError("source.train.training.epochs is needed")
    return PlanRewardTraining(
        base_model=parts.source(train.base_model, inputs),
        dataset=parts.dataset("train", train.dataset, inputs),
        aggregation=train.aggregation,
        epochs=train.training.epochs,
        batch_size=train.training.batch_size,
        seed=train.training.seed,
        optimizer=train.optimizer,
        max_length=train.max_length,
        lora=train.lora,
    )


def _evaluation(spec: RewardModelSpec, inputs: parts.Inputs) -> PlanRewardEvaluation:
    wanted = spec.evaluation
    if wanted is None:
        return PlanRewardEvaluation()
    split: Split | None = wanted.split if spec.source.train is not None and wanted.dataset is None else None
    return PlanRewardEvaluation(
        dataset=parts.dataset("evaluation", wanted.dataset, inputs) if wanted.dataset is not None else None,
        held_out_fraction=split.held_out_fraction if split is not None else None,
        folds=split.folds if split is not None else None,
        must_prefer=parts.source(wanted.must_prefer, inputs, SourceContent.DATA)
        if wanted.must_prefer is not None
        else None,
        slice_columns=list(wanted.slices.columns) if wanted.slices is not None else [],
    )


def _frozen_contents(plan: RewardPlan) -> parts.Contents:
    """Return the digests that a plan was frozen with: a ConfigMap that is edited later makes no other plan."""
    known = {each.path: each.digest for _, each in plan.inputs()}
    known |= {each.scorer.grader_path: each.scorer.grader_digest for each in plan.graders if each.scorer.grader_path}
    return lambda ref: known.get(f"{CONFIG_MAPS_PATH}/{ref.name}/{ref.key}")

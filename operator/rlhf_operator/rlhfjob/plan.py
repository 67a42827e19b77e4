"""The spec resolved to a TrainingPlan: every default filled in, every input as the pod finds it. Pure."""

from __future__ import annotations

from rlhf_operator.api import plan as api
from rlhf_operator.api.graders import NamedScorer
from rlhf_operator.api.guards import DEFAULT_DROP, DEFAULT_GUARDS, Guard
from rlhf_operator.api.plan import SourceContent
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.names import Owner
from rlhf_operator.runs import plan as parts
from rlhf_operator.runs.storage import output_claim
from rlhf_operator.runs.views import References

from . import rewardmodels


def resolve(owner: Owner, spec: RLHFJobSpec, found: References, defaults: OperatorDefaults) -> api.TrainingPlan:
    """Return the plan of a spec whose references were found. Equal arguments give an equal plan."""
    contents = parts.contents_of(found)
    return parts.placed(
        owner.name, lambda folder: _resolve(owner, spec, found, defaults, parts.Inputs(contents, folder))
    )


def _resolve(
    owner: Owner, spec: RLHFJobSpec, found: References, defaults: OperatorDefaults, inputs: parts.Inputs
) -> api.TrainingPlan:
    return api.TrainingPlan(
        name=owner.name,
        namespace=owner.namespace,
        image=spec.compute.image or defaults.trainer_image,
        algorithm=spec.algorithm,
        base_model=parts.source(spec.base_model, inputs),
        parent_artifact=parts.source(spec.parent_artifact, inputs, SourceContent.ARTIFACT)
        if spec.parent_artifact is not None
        else None,
        warm_start=_warm_start(spec, inputs),
        dataset=parts.dataset("train", spec.dataset, inputs),
        scorers=[_scorer(each, spec, found, inputs) for each in spec.scorers],
        rewards=list(spec.rewards),
        monitors=list(spec.monitors),
        training=api.PlanTraining(
            steps=spec.training.steps,
            epochs=spec.training.epochs,
            batch_size=spec.training.batch_size,
            seed=spec.training.seed,
        ),
        optimizer=spec.optimizer,
        generation=spec.generation,
        ppo=spec.ppo,
        grpo=spec.grpo,
        rloo=spec.rloo,
        dpo=spec.dpo,
        kto=spec.kto,
        sft=spec.sft,
        lora=spec.lora,
        compute=parts.compute(spec.compute),
        checkpoints=parts.checkpoints(spec.checkpoints),
        guards=[_guard(guard) for guard in guards_in_force(spec)],
        evaluation=_evaluation(spec, inputs),
        timeouts=parts.timeouts(spec.timeouts),
        output=parts.output(owner.name, spec.output, output_claim(owner.name, spec), "artifacts"),
    )


def guards_in_force(spec: RLHFJobSpec) -> list[Guard]:
    """Return the spec's guards and the default ones that no entry of the same name replaces, by name."""
    named = {guard.name: guard for guard in DEFAULT_GUARDS} | {guard.name: guard for guard in spec.guards}
    return [named[name] for name in sorted(named)]


def live_settings(spec: RLHFJobSpec) -> api.LiveSettings:
    """Return what may change while the job runs."""
    return api.LiveSettings(guard_actions={guard.name: guard.action for guard in guards_in_force(spec)})


def uses_training_reward(spec: RLHFJobSpec) -> bool:
    """Whether every scorer of the gate was optimised, so that the gate proves little."""
    evaluation = spec.evaluation
    if evaluation is None or evaluation.allow_training_scorer:
        return False
    judges = {*evaluation.scorers, *(suite.scorer for suite in evaluation.suites)}
    return bool(judges) and judges <= {reward.scorer for reward in spec.rewards}


def _scorer(each: NamedScorer, spec: RLHFJobSpec, found: References, inputs: parts.Inputs) -> api.PlanScorer:
    if each.grader is not None:
        return parts.scorer(each.name, each.grader, inputs)
    if each.reward_model_ref is None:
        raise ValueError(f"scorer {each.name} has neither a grader nor a rewardModelRef")
    return api.PlanScorer(
        name=each.name,
        reward_model=rewardmodels.use(each.reward_model_ref, found, files=rewardmodels.starts_from_reward_model(spec)),
    )


def _warm_start(spec: RLHFJobSpec, inputs: parts.Inputs) -> api.PlanWarmStart | None:
    warm = spec.warm_start
    if warm is None:
        return None
    return api.PlanWarmStart(
        dataset=parts.dataset("warmStart", warm.dataset, inputs),
        epochs=float(warm.training.epochs or 1),
        batch_size=warm.training.batch_size,
        seed=warm.training.seed,
        optimizer=warm.optimizer,
    )


def _guard(guard: Guard) -> api.PlanGuard:
    limits = {kind: getattr(guard, kind) for kind in guard.one_of}
    hacking = guard.reward_hacking
    if hacking is not None and hacking.monitor is not None and hacking.drop is None:
        limits["reward_hacking"] = hacking.model_copy(update={"drop": DEFAULT_DROP})
    return api.PlanGuard(name=guard.name, patience=guard.patience, **limits)


def _evaluation(spec: RLHFJobSpec, inputs: parts.Inputs) -> api.PlanEvaluation | None:
    evaluation = spec.evaluation
    if evaluation is None:
        return None
    return api.PlanEvaluation(
        dataset=parts.dataset("evaluation", evaluation.dataset, inputs),
        every_steps=evaluation.every_steps,
        baselines=[baseline.value for baseline in evaluation.baselines],
        scorers=list(evaluation.scorers),
        min_win_rate=evaluation.min_win_rate,
        min_improvement=evaluation.min_improvement,
        suites=[
            api.PlanSuite(
                name=suite.name,
                dataset=parts.dataset(f"suite-{suite.name}", suite.dataset, inputs),
                scorer=suite.scorer,
                max_drop=suite.max_drop,
            )
            for suite in evaluation.suites
        ]
        or None,
        slices=evaluation.slices,
    )

"""The spec resolved to a TrainingPlan: every default filled in, every input as the pod finds it. Pure."""

from __future__ import annotations

from rlhf_operator.api import plan as api
from rlhf_operator.api.algorithms import Algorithm
from rlhf_operator.api.data import DataRef, Dataset
from rlhf_operator.api.guards import DEFAULT_GUARDS, Guard
from rlhf_operator.api.pods import Precision
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.names import Owner

from .storage import output_claim
from .views import References


def resolve(owner: Owner, spec: RLHFJobSpec, found: References, defaults: OperatorDefaults) -> api.TrainingPlan:
    """Return the plan of a spec whose references were found. Equal arguments give an equal plan."""
    if spec.training.steps is None:
        raise ValueError("training.steps is needed where responses are generated")
    return api.TrainingPlan(
        name=owner.name,
        namespace=owner.namespace,
        image=spec.compute.image or defaults.trainer_image,
        algorithm=spec.algorithm,
        base_model=_source(spec.base_model, found),
        parent_artifact=_source(spec.parent_artifact, found) if spec.parent_artifact is not None else None,
        warm_start=_warm_start(spec, found),
        dataset=_dataset("train", spec.dataset, found),
        scorers=[_scorer(spec, index, found) for index in range(len(spec.scorers))],
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
        ppo=spec.ppo if spec.algorithm == Algorithm.PPO else None,
        compute=_compute(spec),
        checkpoints=api.PlanCheckpoints(
            every_steps=spec.checkpoints.every_steps,
            keep=spec.checkpoints.keep,
            grace_period_seconds=spec.checkpoints.grace_period.seconds,
        ),
        guards=[_guard(guard) for guard in guards_in_force(spec)],
        evaluation=_evaluation(spec, found),
        timeouts=api.PlanTimeouts(
            startup_seconds=spec.timeouts.startup.seconds, progress_seconds=spec.timeouts.progress.seconds
        ),
        output=api.PlanOutput(
            claim=output_claim(owner.name, spec),
            path=(spec.output.pvc.path if spec.output.pvc is not None else "") or f"artifacts/{owner.name}",
            alias=spec.output.alias,
            sign=spec.output.signing is not None,
        ),
    )


def guards_in_force(spec: RLHFJobSpec) -> list[Guard]:
    """Return the spec's guards and the default ones that no entry of the same name replaces, by name."""
    named = {guard.name: guard for guard in DEFAULT_GUARDS} | {guard.name: guard for guard in spec.guards}
    return [named[name] for name in sorted(named)]


def live_settings(spec: RLHFJobSpec) -> api.LiveSettings:
    """Return what may change while the job runs."""
    return api.LiveSettings(guard_actions={guard.name: guard.action for guard in guards_in_force(spec)})


def workspace(job: str, plan_digest: str) -> str:
    """Return the workspace's path inside a pod."""
    return f"{api.STORAGE_PATH}/{api.workspace_name(job, plan_digest)}"


def uses_training_reward(spec: RLHFJobSpec) -> bool:
    """Whether every scorer of the gate was optimised, so that the gate proves little."""
    evaluation = spec.evaluation
    if evaluation is None or evaluation.allow_training_scorer or not evaluation.scorers:
        return False
    return set(evaluation.scorers) <= {reward.scorer for reward in spec.rewards}


def _place(ref: DataRef) -> tuple[str, str]:
    """Return (path in the pod, reference for people)."""
    if ref.pvc is not None:
        inside = f"/{ref.pvc.path}" if ref.pvc.path else ""
        return f"{api.CLAIMS_PATH}/{ref.pvc.claim_name}{inside}", f"pvc://{ref.pvc.claim_name}{inside}"
    if ref.config_map is not None:
        inside = f"{ref.config_map.name}/{ref.config_map.key}"
        return f"{api.CONFIG_MAPS_PATH}/{inside}", f"configmap://{inside}"
    raise ValueError("only pvc and configMap sources can be resolved")


def _digest(ref: DataRef, found: References) -> str | None:
    """Return the digest given, else that of a ConfigMap's content: it may change between attempts and must not."""
    if ref.digest is not None or ref.config_map is None:
        return ref.digest
    return sha256_of(found.config_maps[ref.config_map.name][ref.config_map.key])


def _source(ref: DataRef, found: References) -> api.PlanSource:
    path, readable = _place(ref)
    return api.PlanSource(path=path, ref=readable, digest=_digest(ref, found))


def _dataset(name: str, dataset: Dataset, found: References) -> api.PlanDataset:
    path, readable = _place(dataset)
    return api.PlanDataset(
        name=name,
        path=path,
        ref=readable,
        digest=_digest(dataset, found),
        format=dataset.format,
        columns=dataset.columns,
        provenance=dataset.provenance,
    )


def _scorer(spec: RLHFJobSpec, index: int, found: References) -> api.PlanScorer:
    scorer = spec.scorers[index]
    if scorer.grader is None:
        raise ValueError(f"scorer {scorer.name}: reward models can't be resolved yet")
    source = scorer.grader.python.config_map if scorer.grader.python is not None else None
    if source is None:
        return api.PlanScorer(name=scorer.name, grader=scorer.grader)
    return api.PlanScorer(
        name=scorer.name,
        grader=scorer.grader,
        grader_path=f"{api.CONFIG_MAPS_PATH}/{source.name}/{source.key}",
        grader_digest=sha256_of(found.config_maps[source.name][source.key]),
    )


def _warm_start(spec: RLHFJobSpec, found: References) -> api.PlanWarmStart | None:
    warm = spec.warm_start
    if warm is None:
        return None
    return api.PlanWarmStart(
        dataset=_dataset("warmStart", warm.dataset, found),
        epochs=float(warm.training.epochs or 1),
        batch_size=warm.training.batch_size,
        seed=warm.training.seed,
        optimizer=warm.optimizer,
    )


def _compute(spec: RLHFJobSpec) -> api.PlanCompute:
    compute = spec.compute
    return api.PlanCompute(
        workers=compute.workers,
        procs_per_worker=max(1, compute.gpus_per_worker),
        gpus_per_worker=compute.gpus_per_worker,
        zero_stage=compute.zero_stage,
        offload=compute.offload,
        precision=compute.precision or (Precision.BF16 if compute.gpus_per_worker else Precision.FP32),
        gradient_checkpointing=compute.gradient_checkpointing,
        attention=compute.attention,
        deterministic=compute.deterministic,
    )


def _guard(guard: Guard) -> api.PlanGuard:
    return api.PlanGuard(
        name=guard.name, patience=guard.patience, **{kind: getattr(guard, kind) for kind in guard.one_of}
    )


def _evaluation(spec: RLHFJobSpec, found: References) -> api.PlanEvaluation | None:
    evaluation = spec.evaluation
    if evaluation is None:
        return None
    return api.PlanEvaluation(
        dataset=_dataset("evaluation", evaluation.dataset, found),
        every_steps=evaluation.every_steps,
        baselines=[baseline.value for baseline in evaluation.baselines],
        scorers=list(evaluation.scorers),
        min_win_rate=evaluation.min_win_rate,
        min_improvement=evaluation.min_improvement,
    )

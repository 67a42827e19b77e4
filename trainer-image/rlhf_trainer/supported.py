"""What this trainer does of a plan. Anything else is refused by the field's name before a model is loaded."""

from rlhf_operator.api.base import to_camel
from rlhf_operator.api.data import Format
from rlhf_operator.api.guards import unmeasured
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.pods import Offload, Precision
from rlhf_operator.api.rewardplan import RewardPlan

from .errors import ConfigError
from .supported_offline import FORMATS as OFFLINE
from .supported_offline import offline_problems


def check_supported(plan: TrainingPlan, micro_batch_size: int) -> None:
    """Raise ConfigError with every reason why this plan can't be run as written."""
    unsupported = _unsupported(plan)
    sizes = offline_problems if plan.algorithm in OFFLINE else _generating_sizes
    problems = [*unsupported, *sizes(plan, micro_batch_size), *_names(plan)]
    if problems:
        raise ConfigError("; ".join(problems), reason="NotSupportedYet" if unsupported else "Config")


def check_reward_model(plan: RewardPlan, micro_batch_size: int) -> None:
    """Raise ConfigError with every reason why this version can't be made as written."""
    problems = []
    if plan.compute.zero_stage not in (0, 2, 3):
        problems.append(f"compute.zeroStage {plan.compute.zero_stage} is not supported: use 0, 2 or 3")
    if plan.compute.offload is not Offload.NONE and plan.compute.gpus_per_worker == 0:
        problems.append("compute.offload needs GPUs: everything is in host memory already")
    if plan.compute.zero_stage > 0 and plan.compute.gpus_per_worker == 0 and plan.compute.precision is Precision.BF16:
        problems.append("compute.precision bf16 with zeroStage needs GPUs here: use fp32, or zeroStage 0")
    if plan.train is not None:
        unit = plan.compute.world_size * micro_batch_size
        if plan.train.batch_size % unit:
            problems.append(
                f"training.batchSize {plan.train.batch_size} must be a multiple of {plan.compute.world_size} ranks x "
                f"microBatchSize {micro_batch_size}"
            )
        problems += _splits(plan)
    elif plan.compute.world_size > 1:
        problems.append("compute.workers: a reward model that is not trained needs one worker with one process")
    if problems:
        raise ConfigError("; ".join(problems))


def _splits(plan: RewardPlan) -> list[str]:
    evaluation = plan.evaluation
    given = [evaluation.dataset is not None, evaluation.held_out_fraction is not None, evaluation.folds is not None]
    if sum(given) > 1:
        return ["evaluation: give one of dataset, split.heldOutFraction, split.folds"]
    return []


def _unsupported(plan: TrainingPlan) -> list[str]:
    found = []
    block = plan.algorithm.value.lower()
    if getattr(plan, block) is None:
        found.append(f"algorithm {plan.algorithm.value} needs the block {block}")
    elif plan.algorithm not in OFFLINE:
        found += _unsupported_generating(plan)
    found += [
        f"guards[{guard.name}].{to_camel(guard.kind)}: {why}"
        for guard in plan.guards
        if (why := unmeasured(guard.kind, guard.reward_hacking, plan.algorithm, plan.rewards)) is not None
    ]
    if plan.evaluation is not None:
        if "Parent" in plan.evaluation.baselines and plan.parent_artifact is None:
            found.append("evaluation.baselines names Parent, but there is no parentArtifact")
        if "WarmStart" in plan.evaluation.baselines and plan.warm_start is None:
            found.append("evaluation.baselines names WarmStart, but there is no warmStart")
    if plan.compute.zero_stage not in (0, 2, 3):
        found.append(f"compute.zeroStage {plan.compute.zero_stage} is not supported: use 0, 2 or 3")
    if plan.compute.offload is not Offload.NONE and plan.compute.gpus_per_worker == 0:
        found.append("compute.offload needs GPUs: everything is in host memory already")
    return found


def _unsupported_generating(plan: TrainingPlan) -> list[str]:
    found = []
    if plan.training.epochs is not None:
        found.append(f"training.epochs is not for {plan.algorithm.value}: give training.steps")
    if plan.dataset.format is Format.DEMONSTRATIONS:
        found.append(f"dataset.format Demonstrations is for warmStart: {plan.algorithm.value} needs prompts")
    if plan.lora is not None and plan.ppo is None:
        found.append(f"lora is not supported for {plan.algorithm.value} yet: remove it")
    return found


def _generating_sizes(plan: TrainingPlan, micro_batch_size: int) -> list[str]:
    world = plan.compute.world_size
    unit = world * micro_batch_size
    found = []
    if plan.ppo is not None:
        batch, parts = plan.training.batch_size, plan.ppo.mini_batches
        if batch % parts or (batch // parts) % unit:
            found.append(
                f"training.batchSize {batch} / ppo.miniBatches {parts} must be a multiple of "
                f"{world} ranks x microBatchSize {micro_batch_size}"
            )
    for name, block in (("grpo", plan.grpo), ("rloo", plan.rloo)):
        if block is not None and plan.training.batch_size % unit:
            found.append(
                f"training.batchSize {plan.training.batch_size} must be a multiple of {world} ranks x microBatchSize "
                f"{micro_batch_size}"
            )
        if block is not None and plan.training.batch_size % block.group_size:
            found.append(
                f"training.batchSize {plan.training.batch_size} must be a multiple of {name}.groupSize "
                f"{block.group_size}: a batch holds whole groups"
            )
    if not plan.rewards:
        found.append(f"rewards: {plan.algorithm.value} needs at least one")
    return found


def _names(plan: TrainingPlan) -> list[str]:
    world = plan.compute.world_size
    names = {scorer.name for scorer in plan.scorers}
    wanted = [reward.scorer for reward in plan.rewards] + plan.monitors
    if plan.evaluation is not None:
        wanted += [*plan.evaluation.scorers, *(suite.scorer for suite in plan.evaluation.suites or [])]
    found = [f"scorer {name} is used but not defined under scorers" for name in wanted if name not in names]
    if plan.warm_start is not None and plan.warm_start.batch_size % world:
        found.append(f"warmStart.training.batchSize {plan.warm_start.batch_size} must be a multiple of {world} ranks")
    return found

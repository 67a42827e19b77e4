"""What SFT, DPO and KTO do of a plan: a field that they have no use for is refused by its name, not ignored."""

from collections.abc import Iterator, Mapping

from rlhf_operator.api.algorithms import Algorithm, DPOLoss
from rlhf_operator.api.data import Format
from rlhf_operator.api.generation import Truncation
from rlhf_operator.api.plan import TrainingPlan

FORMATS: Mapping[Algorithm, tuple[Format, ...]] = {
    Algorithm.SFT: (Format.DEMONSTRATIONS,),
    Algorithm.DPO: (Format.PAIRS,),
    Algorithm.KTO: (Format.BINARY, Format.PAIRS),
}


def offline_problems(plan: TrainingPlan, micro_batch_size: int) -> Iterator[str]:
    """Every reason why this plan of SFT, DPO or KTO can't be run as written."""
    name = plan.algorithm.value
    if plan.rewards:
        yield f"rewards: {name} optimises none; list the scorers under monitors, with an evaluation"
    if plan.monitors and plan.evaluation is None:
        yield f"monitors: {name} asks scorers in evaluations only; add evaluation or remove monitors"
    if plan.generation.truncation != Truncation():
        yield f"generation.truncation: {name} rewards no response; remove it"
    formats = FORMATS[plan.algorithm]
    if plan.dataset.format not in formats:
        yield f"dataset.format {plan.dataset.format.value}: {name} learns from {' or '.join(formats)}"
    if plan.dpo is not None and plan.dpo.label_smoothing > 0 and plan.dpo.loss is not DPOLoss.SIGMOID:
        yield f"dpo.labelSmoothing: the {plan.dpo.loss.value} loss has none; use Sigmoid, or 0"
    unit = plan.compute.world_size * micro_batch_size
    if plan.training.batch_size % unit:
        yield (
            f"training.batchSize {plan.training.batch_size} must be a multiple of {plan.compute.world_size} ranks x "
            f"microBatchSize {micro_batch_size}"
        )
    if plan.kto is not None and plan.training.batch_size < 2:
        yield "training.batchSize 1: KTO compares the responses of a batch; use 2 or more"

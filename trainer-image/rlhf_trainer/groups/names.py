"""Our names of GRPO's and RLOO's settings, and TRL's: one table each. What both share is beside them."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from rlhf_operator.api.algorithms import GRPO, RLOO, GRPOLoss, ScaleRewards
from rlhf_operator.api.generation import Generation

GRPO_NAMES: Mapping[str, str] = {
    "group_size": "num_generations",
    "iterations": "num_iterations",
    "loss": "loss_type",
    "scale_rewards": "scale_rewards",
    "clip_low": "epsilon",
    "clip_high": "epsilon_high",
    "kl.coefficient": "beta",
    "kl.bias_correction": "use_bias_correction_kl",
}
RLOO_NAMES: Mapping[str, str] = {
    "group_size": "num_generations",
    "iterations": "num_iterations",
    "clip_low": "epsilon",
    "clip_high": "epsilon_high",
    "normalize_advantages": "normalize_advantages",
    "kl.coefficient": "beta",
}
VALUES: Mapping[Enum, str] = {
    GRPOLoss.GRPO: "grpo",
    GRPOLoss.DR_GRPO: "dr_grpo",
    GRPOLoss.DAPO: "dapo",
    ScaleRewards.NONE: "none",
    ScaleRewards.GROUP: "group",
    ScaleRewards.BATCH: "batch",
}


def group_arguments(settings: GRPO | RLOO, generation: Generation, accumulation: int) -> dict[str, Any]:
    """Keyword arguments of GRPOConfig or RLOOConfig beside the common ones.

    accumulation: micro-batches of a rank's share of a step. A step's responses are one generation batch and one
    optimizer step per iteration.
    """
    names = GRPO_NAMES if isinstance(settings, GRPO) else RLOO_NAMES
    return {
        **{theirs: _value(settings, ours) for ours, theirs in names.items()},
        "steps_per_generation": accumulation,
        "max_completion_length": generation.max_response_length,
        "temperature": generation.temperature,
        # The order of prompts is ours.
        "shuffle_dataset": False,
    }


def _value(settings: GRPO | RLOO, path: str) -> Any:
    found: Any = settings
    for name in path.split("."):
        found = getattr(found, name)
    return VALUES[found] if isinstance(found, Enum) else found

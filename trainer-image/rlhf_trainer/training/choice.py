"""The one place where a plan's algorithm becomes the training that is run."""

from collections.abc import Callable
from pathlib import Path

from rlhf_operator.api.algorithms import Algorithm
from rlhf_trainer.data import Prepared

from .attempt import Attempt, Trained
from .measuring import Measuring

Train = Callable[[Attempt, Measuring, Prepared, Path], Trained]
"""(attempt, measuring, the training data, folder of the policy to start from) -> what the training left."""


def training_of(algorithm: Algorithm) -> Train:
    """The training of an algorithm; its libraries are imported only now. Others were refused by supported.py."""
    match algorithm:
        case Algorithm.PPO:
            from .ppo import train_ppo

            return train_ppo
        case Algorithm.SFT:
            from .sft import train_sft

            return train_sft
        case Algorithm.DPO:
            from .dpo import train_dpo

            return train_dpo
        case Algorithm.KTO:
            from .kto import train_kto

            return train_kto
        case Algorithm.GRPO | Algorithm.RLOO:
            from .groups import train_groups

            return train_groups
        case _:
            raise ValueError(f"no training for {algorithm}")

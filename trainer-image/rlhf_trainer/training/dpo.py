"""Direct preference optimization (Rafailov et al. 2023) by TRL's DPOTrainer."""

from pathlib import Path
from typing import Any

from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from rlhf_operator.api.algorithms import DPO, DPOLoss
from rlhf_trainer.data import Prepared
from rlhf_trainer.trl_bridge.tables import settings

from .attempt import Attempt, Trained
from .examples import Batches, Completions
from .measuring import Measuring
from .offline import Offline, OfflineBridge, Recipe

NAMES = {"beta": "beta", "loss": "loss_type", "label_smoothing": "label_smoothing"}
"""Our hyperparameters in TRL's words."""
LOSSES = {DPOLoss.SIGMOID: "sigmoid", DPOLoss.IPO: "ipo", DPOLoss.HINGE: "hinge"}
ROBUST = "robust"
"""Sigmoid where a share of the pairs is the wrong way round (Chowdhury et al. 2024): TRL's other losses ignore it."""
FIGURES = {
    "rewards/accuracies": "accuracy",
    "rewards/margins": "rewardMargin",
    "rewards/chosen": "rewardChosen",
    "rewards/rejected": "rewardRejected",
    "logps/chosen": "logpsChosen",
    "logps/rejected": "logpsRejected",
    "entropy": "dataEntropy",
}


class PairTrainer(OfflineBridge, DPOTrainer):
    """TRL's trainer on our rows and steps."""


def loss_of(block: DPO) -> str:
    """TRL's name of the loss."""
    return ROBUST if block.loss is DPOLoss.SIGMOID and block.label_smoothing > 0 else LOSSES[block.loss]


def train_dpo(attempt: Attempt, measuring: Measuring, rows: Prepared, start: Path) -> Trained:
    """Train the policy in `start`, which is the reference model too, on the plan's pairs."""
    block = attempt.plan.dpo
    assert block is not None
    completions = Completions(attempt)

    def example(row: int) -> dict[str, Any]:
        found = rows[row]
        return {
            "prompt_ids": completions.prompt(found),
            "chosen_ids": completions.response(found.chosen),
            "rejected_ids": completions.response(found.rejected),
        }

    collate = DataCollatorForPreference(pad_token_id=attempt.tokenizer.pad_token_id)

    def build(run: Offline) -> PairTrainer:
        own = settings(block, NAMES, {"loss": lambda _: [loss_of(block)]})
        return PairTrainer(
            run,
            ref_model=run.reference,
            args=DPOConfig(**run.arguments, **own, max_length=None, disable_dropout=True),
            data_collator=Batches(lambda place: example(run.order[place]), collate),
        )

    return Recipe(count=len(rows), stream="pairs", figures=FIGURES, build=build, reference=True).train(
        attempt, measuring, rows, start
    )

"""Supervised fine-tuning by TRL's SFTTrainer, with the loss on completions alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from rlhf_trainer.data import Prepared
from rlhf_trainer.trl_bridge.tables import settings

from .attempt import Attempt, Trained
from .examples import Batches, Completions
from .measuring import Measuring
from .offline import Offline, OfflineBridge, Recipe

NAMES: Mapping[str, str] = {}
"""Our hyperparameters in TRL's words: SFT has none of its own."""
FIGURES = {"mean_token_accuracy": "tokenAccuracy", "entropy": "dataEntropy"}
_IGNORED = -100
"""The label of a token that is not in the loss."""


class CompletionTrainer(OfflineBridge, SFTTrainer):
    """TRL's trainer on our rows and steps."""


def train_sft(attempt: Attempt, measuring: Measuring, rows: Prepared, start: Path) -> Trained:
    """Fine-tune the policy in `start` on the plan's demonstrations."""
    block = attempt.plan.sft
    assert block is not None
    completions = Completions(attempt)

    def example(row: int) -> dict[str, Any]:
        prompt, response = completions.prompt(rows[row]), completions.response(rows[row].response)
        return {"input_ids": prompt + response, "labels": [_IGNORED] * len(prompt) + response}

    collate = DataCollatorForLanguageModeling(pad_token_id=attempt.tokenizer.pad_token_id)

    def build(run: Offline) -> CompletionTrainer:
        return CompletionTrainer(
            run,
            args=SFTConfig(**run.arguments, **settings(block, NAMES), max_length=None, packing=False, eos_token=None),
            data_collator=Batches(lambda place: example(run.order[place]), collate),
        )

    return Recipe(count=len(rows), stream="demonstrations", figures=FIGURES, build=build, reference=False).train(
        attempt, measuring, rows, start
    )

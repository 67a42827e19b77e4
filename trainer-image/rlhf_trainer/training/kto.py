"""Kahneman-Tversky optimization (Ethayarajh et al. 2024) by TRL's KTOTrainer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from rlhf_trainer.data import Prepared
from rlhf_trainer.trl_bridge.tables import settings

from .attempt import Attempt, Trained
from .examples import Batches, Completions
from .measuring import Measuring
from .offline import Offline, OfflineBridge, Recipe

NAMES = {"beta": "beta", "desirable_weight": "desirable_weight", "undesirable_weight": "undesirable_weight"}
"""Our hyperparameters in TRL's words."""
FIGURES = {
    "rewards/margins": "rewardMargin",
    "rewards/chosen": "rewardChosen",
    "rewards/rejected": "rewardRejected",
    "logps/chosen": "logpsChosen",
    "logps/rejected": "logpsRejected",
    "entropy": "dataEntropy",
    "kl": "referencePoint",
}


class JudgedTrainer(OfflineBridge, KTOTrainer):
    """TRL's trainer, with the reference point z0 taken over the whole optimizer step.

    TRL takes it over one micro-batch of all ranks: microBatchSize and the world size would change the loss.
    """

    _reference_point: Tensor | None = None

    def __init__(self, run: Offline, *, args: KTOConfig, **settings: Any) -> None:
        # TRL pairs prompts with other completions within a micro-batch, and refuses one of 1; ours are paired already.
        micro = args.per_device_train_batch_size
        args.per_device_train_batch_size = max(2, micro)
        super().__init__(run, args=args, **settings)
        self.args.per_device_train_batch_size = self._train_batch_size = micro

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Before an optimizer step, take z0 over its micro-batches: the forward passes are those TRL would do."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._reference_point = None
        found = torch.zeros(2, device=device)
        for sample in samples:
            batch = self._prepare_inputs(sample)
            policy, reference = (self._compute_kl_logps(model, batch) for model in (self.model_wrapped, self.ref_model))
            found += torch.stack([(policy - reference).float().sum(), torch.tensor(float(len(policy)), device=device)])
        total, count = self._control.boundary.group.sum(found, "the reference point")
        self._reference_point = total / count
        return samples, items

    def _compute_kl_logps(self, model: Any, batch: Any) -> Any:
        """What TRL subtracts and averages to z0: the step's z0 for the policy, nothing for the reference."""
        if self._reference_point is None:
            return super()._compute_kl_logps(model, batch)  # type: ignore[no-untyped-call]
        point = self._reference_point
        return torch.zeros_like(point) if model is self.ref_model else point


def mismatched(place: int, batch_size: int) -> int:
    """The place whose completion makes a mismatched pair with the prompt at `place`: the one before, in its batch."""
    first = place - place % batch_size
    return first + (place - first - 1) % batch_size


def judged(rows: Prepared) -> list[tuple[int, bool]]:
    """Every completion as (row, whether it is desirable); a pair makes two."""
    found = []
    for at, (chosen, rejected) in enumerate(rows.judged()):
        found += [(at, desirable) for desirable, there in ((True, chosen), (False, rejected)) if there]
    return found


def train_kto(attempt: Attempt, measuring: Measuring, rows: Prepared, start: Path) -> Trained:
    """Train the policy in `start`, which is the reference model too, on the plan's judged completions."""
    block = attempt.plan.kto
    assert block is not None
    completions, everything = Completions(attempt), judged(rows)
    batch_size = attempt.plan.training.batch_size

    def completion(at: int) -> list[int]:
        row, desirable = everything[at]
        return completions.response(rows[row].chosen if desirable else rows[row].rejected)

    def example(run: Offline, place: int) -> dict[str, Any]:
        row, desirable = everything[run.order[place]]
        return {
            "prompt_ids": completions.prompt(rows[row]),
            "completion_ids": completion(run.order[place]),
            "KL_completion_ids": completion(run.order[mismatched(place, batch_size)]),
            "label": desirable,
        }

    collate = DataCollatorForUnpairedPreference(pad_token_id=attempt.tokenizer.pad_token_id)

    def build(run: Offline) -> JudgedTrainer:
        return JudgedTrainer(
            run,
            ref_model=run.reference,
            args=KTOConfig(
                **run.arguments,
                **settings(block, NAMES),
                max_length=None,
                disable_dropout=True,
                train_sampling_strategy="sequential",
            ),
            data_collator=Batches(lambda place: example(run, place), collate),
        )

    return Recipe(count=len(everything), stream="judged", figures=FIGURES, build=build, reference=True).train(
        attempt, measuring, rows, start
    )

"""One training of a reward model: from rows to weights in a directory, resumed from where it was left."""

import gc
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl.trainer.reward_config import RewardConfig

from rlhf_operator.api.plan import PlanCompute
from rlhf_operator.api.pods import Precision
from rlhf_operator.api.rewardplan import PlanRewardTraining, RewardPlan
from rlhf_scoring.encode import Encoder
from rlhf_trainer.checkpoint import Checkpoint
from rlhf_trainer.engine import describe_zero, gathered_weights, import_deepspeed, zero_config
from rlhf_trainer.errors import Crash
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.progress import say
from rlhf_trainer.sampling import DataOrder

from .control import Run, StepControl
from .network import Network, load_network, lora_config, write_model
from .trainer import PairCollator, PreferenceTrainer


@dataclass(frozen=True)
class Phase:
    """One training among those of a run."""

    name: str
    rows: Sequence[Judged]
    offset: int
    """Steps of the run that lie before it."""
    steps: int

    def holds(self, step: int) -> bool:
        """Whether a checkpoint of this step of the run is one of this training."""
        return self.offset < step <= self.offset + self.steps


def phase_steps(settings: PlanRewardTraining, rows: int) -> int:
    """Optimizer steps for so many rows; the last batch is filled up from the next shuffle."""
    return max(1, math.ceil(settings.epochs * rows / settings.batch_size))


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    engine: str
    figures: dict[str, float]
    """Of the last step that was done here; empty when nothing was left to do."""


def train_phase(
    plan: RewardPlan, base: Path, phase: Phase, run: Run, micro_batch_size: int, found: Checkpoint | None, target: Path
) -> Trained:
    """Train one phase to its end and write the model to `target` (rank 0). Raises Interrupted when asked to stop."""
    settings = plan.train
    assert settings is not None
    _forget_deepspeed()
    network = _network(plan, base)
    control = StepControl(run, settings.seed, phase.offset, phase.steps)
    _tell_accelerate(plan.compute)
    order = DataOrder(len(phase.rows), settings.seed, phase.name)
    with tempfile.TemporaryDirectory(prefix="rlhf-reward-") as scratch:
        trainer = PreferenceTrainer(
            model=network.model,
            tokenizer=network.tokenizer,
            args=_arguments(plan, micro_batch_size, phase.steps, scratch),
            order=[order.at(place) for place in range(phase.steps * settings.batch_size)],
            collator=PairCollator(
                phase.rows,
                Encoder(network.tokenizer, network.input_format),
                plan.dimensions,
                network.pad,
                network.token_types,
            ),
            optimizer=settings.optimizer,
            compute=plan.compute,
            control=control,
            peft_config=None if settings.lora is None else lora_config(settings.lora, network),
        )
        if trainer.args.world_size != run.group.world_size:
            # Every rank would read the same rows, and nothing else would show it.
            raise Crash(f"the library sees {trainer.args.world_size} ranks of {run.group.world_size}", "WorldSize")
        if run.group.is_main:
            say("training", phase=phase.name, rows=len(phase.rows), steps=phase.steps, resumed=found is not None)
        # A path is always named: what the library would find by itself may be half a checkpoint.
        trainer.train(resume_from_checkpoint=None if found is None else str(found.path))
        control.leave_if_stopped()
    wrapped = trainer.model_wrapped
    engine = (
        describe_zero(wrapped)
        if plan.compute.zero_stage > 0
        else f"{type(wrapped).__name__}(world={run.group.world_size})"
    )
    weights = gathered_weights(cast("nn.Module", trainer.model))
    trainer.accelerator.free_memory()
    del trainer, wrapped
    _forget_deepspeed()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if run.group.is_main:
        write_model(_network(plan, base), weights, settings.lora, target)
    run.group.barrier(f"the model of {phase.name}")
    run.beat()
    return Trained(engine, control.figures)


def _network(plan: RewardPlan, base: Path) -> Network:
    settings = plan.train
    assert settings is not None
    return load_network(base, plan.dimensions, settings.max_length, settings.seed, plan.compute.attention)


def _forget_deepspeed() -> None:
    """A plan of ZeRO-3 makes Transformers partition every model that is loaded while its settings are alive."""
    unset_hf_deepspeed_config()


def _tell_accelerate(compute: PlanCompute) -> None:
    """Tell accelerate of the process group that was joined.

    By itself it finds DeepSpeed's ranks on GPUs only: on CPUs it takes each rank for the only one.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    if compute.zero_stage > 0 and compute.gpus_per_worker == 0:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")
        del os.environ["ACCELERATE_USE_DEEPSPEED"]


def _arguments(plan: RewardPlan, micro: int, steps: int, scratch: str) -> RewardConfig:
    settings, compute = plan.train, plan.compute
    assert settings is not None
    optimizer = settings.optimizer
    accumulation = settings.batch_size // compute.world_size // micro
    deepspeed = None
    if compute.zero_stage > 0:
        import_deepspeed()
        config = zero_config(compute, optimizer.max_grad_norm, accumulation)
        deepspeed = {**config, "train_micro_batch_size_per_gpu": micro}
    return RewardConfig(
        output_dir=scratch,
        # With this flag accelerate would drop DeepSpeed without a word; without a GPU it uses the CPU anyway.
        use_cpu=compute.gpus_per_worker == 0 and deepspeed is None,
        deepspeed=deepspeed,
        accelerator_config={"use_configured_state": deepspeed is not None and compute.gpus_per_worker == 0},
        bf16=compute.precision is Precision.BF16,
        gradient_checkpointing=compute.gradient_checkpointing,
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        learning_rate=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        max_grad_norm=optimizer.max_grad_norm,
        optim="adamw_torch",
        seed=settings.seed,
        disable_dropout=False,
        max_length=None,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )

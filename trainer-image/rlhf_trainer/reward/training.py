"""One training of a reward model: from rows to weights in a directory, resumed from where it was left."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trl.trainer.reward_config import RewardConfig

from rlhf_operator.api.rewardplan import PlanRewardTraining, RewardPlan
from rlhf_scoring.encode import Encoder
from rlhf_trainer.boundary import Boundary
from rlhf_trainer.checkpoint import Checkpoint
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.progress import say
from rlhf_trainer.sampling import DataOrder
from rlhf_trainer.trl_bridge.arguments import common_arguments
from rlhf_trainer.trl_bridge.control import StepControl
from rlhf_trainer.trl_bridge.process import library_state

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
    """Of the last step."""


def train_phase(
    plan: RewardPlan,
    base: Path,
    phase: Phase,
    run: Boundary,
    micro_batch_size: int,
    found: Checkpoint | None,
    target: Path,
) -> Trained:
    """Train one phase to its end and write the model to `target` (rank 0). Raises Interrupted when asked to stop."""
    settings = plan.train
    assert settings is not None
    with library_state(plan.compute), tempfile.TemporaryDirectory(prefix="rlhf-reward-") as scratch:
        trainer = _trainer(plan, base, phase, run, micro_batch_size, scratch)
        if run.group.is_main:
            say("training", phase=phase.name, rows=len(phase.rows), steps=phase.steps, resumed=found is not None)
        trainer.fit(found)
        engine, weights = trainer.engine, trainer.weights()
        trainer.accelerator.free_memory()
        del trainer
    if run.group.is_main:
        write_model(_network(plan, base), weights, settings.lora, target)
    run.group.barrier(f"the model of {phase.name}")
    run.beat()
    return Trained(engine, {name: run.figures[name] for name in ("loss", "accuracy") if name in run.figures})


def _trainer(
    plan: RewardPlan, base: Path, phase: Phase, run: Boundary, micro_batch_size: int, scratch: str
) -> PreferenceTrainer:
    settings = plan.train
    assert settings is not None
    network = _network(plan, base)
    order = DataOrder(len(phase.rows), settings.seed, phase.name)
    arguments = common_arguments(
        settings.optimizer,
        plan.compute,
        batch_size=settings.batch_size,
        micro_batch_size=micro_batch_size,
        steps=phase.steps,
        seed=settings.seed,
        scratch=scratch,
    )
    return PreferenceTrainer(
        model=network.model,
        tokenizer=network.tokenizer,
        args=RewardConfig(**arguments, disable_dropout=False, max_length=None),
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
        control=StepControl(run, seed=settings.seed, offset=phase.offset, steps=phase.steps),
        peft_config=None if settings.lora is None else lora_config(settings.lora, network),
    )


def _network(plan: RewardPlan, base: Path) -> Network:
    settings = plan.train
    assert settings is not None
    return load_network(base, plan.dimensions, settings.max_length, settings.seed, plan.compute.attention)

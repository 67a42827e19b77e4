"""GRPO and RLOO put together: TRL's trainer at our responses and rewards, held to the run's boundaries."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.rloo_config import RLOOConfig

from rlhf_operator.api.pods import Precision
from rlhf_trainer.boundary import Boundary
from rlhf_trainer.checkpoint import POLICY_FOLDER
from rlhf_trainer.data import Prepared
from rlhf_trainer.engine import reference_engine
from rlhf_trainer.groups.names import group_arguments
from rlhf_trainer.groups.rollouts import GroupRollouts
from rlhf_trainer.groups.trainer import PLACE, OurGRPOTrainer, OurRLOOTrainer
from rlhf_trainer.guards import Guards, measures_kl
from rlhf_trainer.policy.load import check_head
from rlhf_trainer.progress import say
from rlhf_trainer.trl_bridge.arguments import common_arguments
from rlhf_trainer.trl_bridge.control import StepControl
from rlhf_trainer.trl_bridge.process import library_state

from .attempt import Attempt, Trained
from .judging import Judging
from .measuring import Measuring


def train_groups(attempt: Attempt, measuring: Measuring, rows: Prepared, start: Path) -> Trained:
    """Train the policy in `start` to the plan's last step, from the newest checkpoint if there is one."""
    plan, group, micro = attempt.plan, attempt.group, attempt.options.micro_batch_size
    settings = plan.grpo or plan.rloo
    steps = plan.training.steps
    assert settings is not None
    assert steps is not None
    if plan.grpo is not None and group.is_main:
        for warning in plan.grpo.warnings():
            say("warning", message=warning)
    store = attempt.store("step")
    judging = Judging(attempt, store)
    rollouts = GroupRollouts(
        plan,
        settings.group_size,
        group=group,
        prompts=rows,
        tokenizer=attempt.tokenizer,
        sampling=attempt.sampling,
        scorer=judging.scorer,
        micro_batch_size=micro,
        beat=attempt.beat,
    )
    # Loaded before the library's settings are alive: under ZeRO-3 it would partition what is loaded then.
    temperature = attempt.sampling.temperature
    policy = attempt.models.load(start)
    check_head(policy)
    measured = settings.kl.coefficient == 0 and measures_kl(plan.guards)
    measure = reference_engine(attempt.models.policy(start, temperature), group, plan.compute) if measured else None
    replica = _replica(attempt, start)
    boundary = Boundary(
        group=group,
        workspace=attempt.workspace,
        store=store,
        steps=steps,
        checkpoints=plan.checkpoints,
        guards=Guards(list(plan.guards), attempt.options.settings),
        stop=attempt.stop,
        beat=attempt.beat,
        reporter=attempt.reporter,
        after_save=judging.forget,
    )
    found = boundary.find(attempt.options.min_checkpoint_step)
    judging.resume(found)
    with library_state(plan.compute), tempfile.TemporaryDirectory(prefix="rlhf-groups-") as scratch:
        common = common_arguments(
            plan.optimizer,
            plan.compute,
            batch_size=plan.training.batch_size,
            micro_batch_size=micro,
            steps=steps,
            seed=plan.training.seed,
            scratch=scratch,
            updates=settings.iterations,
        )
        more = group_arguments(settings, plan.generation, common["gradient_accumulation_steps"])
        trainer_class: Callable[..., OurGRPOTrainer | OurRLOOTrainer]
        config: Callable[..., Any]
        trainer_class, config = (OurGRPOTrainer, GRPOConfig) if plan.grpo else (OurRLOOTrainer, RLOOConfig)
        trainer = trainer_class(
            rollouts=rollouts,
            measure=measure,
            replica=replica,
            save_policy=lambda folder: attempt.save_policy(trainer.weights, folder / POLICY_FOLDER),
            model=policy,
            args=config(**common, **more),
            train_dataset=Dataset.from_dict({PLACE: range(steps * rollouts.prompts_per_step)}),
            processing_class=attempt.tokenizer,
            optimizer=plan.optimizer,
            compute=plan.compute,
            control=StepControl(boundary, seed=plan.training.seed, steps=steps, updates=settings.iterations),
        )

        def after_step(step: int) -> None:
            judging.tell_times()
            measuring.between(step, steps, trainer.whole)

        boundary.after_step = after_step
        measuring.pace(boundary.pace)
        with judging.leaving_samples():
            trainer.fit(found)
    return Trained(
        steps=steps,
        engine=trainer.engine,
        figures=boundary.figures,
        last=boundary.last,
        weights=trainer.weights,
        whole=trainer.whole,
        reference=measure,
    )


def _replica(attempt: Attempt, start: Path) -> Any:
    """Under ZeRO-3 an unpartitioned model to generate with."""
    compute = attempt.plan.compute
    if compute.zero_stage < 3:
        return None
    model = attempt.models.load(start).requires_grad_(False)
    return model.to(attempt.group.device, torch.bfloat16 if compute.precision is Precision.BF16 else torch.float32)

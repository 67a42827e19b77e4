"""Supervised fine-tuning on demonstrations before the algorithm."""

from pathlib import Path

from rlhf_trainer.algorithms.sft import SFTTrainer
from rlhf_trainer.checkpoint import POLICY_FOLDER
from rlhf_trainer.data import Prepared
from rlhf_trainer.guards import Guards
from rlhf_trainer.loop import Loop
from rlhf_trainer.progress import say

from .attempt import Attempt


def warm_start(attempt: Attempt, rows: Prepared) -> Path:
    """Fine-tune the base on demonstrations, unless a former attempt has; returns the policy it led to."""
    plan, group = attempt.plan, attempt.group
    settings = plan.warm_start
    assert settings is not None
    local = settings.batch_size // group.world_size
    micro = min(local, attempt.options.micro_batch_size)
    engine = attempt.models.trained_policy(attempt.base, 1.0, settings.optimizer, -(-local // micro))
    trainer = SFTTrainer(settings, group, engine, rows, attempt.tokenizer, attempt.sampling, micro)

    def tell(step: int) -> None:
        if group.is_main and (step % 10 == 0 or step == trainer.steps):
            say("warm-start", step=step, steps=trainer.steps)

    loop = Loop(
        group=group,
        workspace=attempt.workspace,
        store=attempt.store("warmstart"),
        algorithm=trainer,
        steps=trainer.steps,
        checkpoints=plan.checkpoints,
        guards=Guards([guard for guard in plan.guards if guard.non_finite], attempt.options.settings),
        stop=attempt.stop,
        beat=attempt.beat,
        reporter=None,
        save_policy=lambda folder: attempt.save_policy(trainer.weights, folder / POLICY_FOLDER),
        after_step=tell,
    )
    loop.run(loop.resume())
    assert loop.last is not None
    return loop.last.path / POLICY_FOLDER

"""PPO put together: models into engines, judges, and the loop around algorithms/ppo_trainer.py."""

from pathlib import Path

from rlhf_trainer.algorithms.ppo_trainer import PPOTrainer
from rlhf_trainer.algorithms.rollout import RolloutWorker
from rlhf_trainer.checkpoint import POLICY_FOLDER
from rlhf_trainer.data import Prepared
from rlhf_trainer.guards import Guards
from rlhf_trainer.loop import Loop

from .attempt import Attempt, Trained
from .judging import Judging
from .measuring import Measuring


def train_ppo(attempt: Attempt, measuring: Measuring, rows: Prepared, start: Path) -> Trained:
    """Train the policy in `start` to the plan's last step, from the newest checkpoint if there is one."""
    plan, group, micro = attempt.plan, attempt.group, attempt.options.micro_batch_size
    assert plan.ppo is not None
    temperature = attempt.sampling.temperature
    accumulation = plan.training.batch_size // plan.ppo.mini_batches // group.world_size // micro
    policy = attempt.models.trained_policy(start, temperature, plan.optimizer, accumulation)
    critic = attempt.models.critic(start, plan.ppo.critic.optimizer or plan.optimizer, accumulation)
    reference = attempt.models.reference(start, temperature, policy)
    store = attempt.store("step")
    judging = Judging(attempt, store)
    worker = RolloutWorker(
        group=group,
        policy=policy,
        reference=reference,
        critic=critic,
        tokenizer=attempt.tokenizer,
        sampling=attempt.sampling,
        micro_batch_size=micro,
        scorer=judging.scorer,
        beat=attempt.beat,
    )
    trainer = PPOTrainer(plan, worker, rows, micro)

    def after_step(step: int) -> None:
        judging.tell_times()
        measuring.between(step, trainer.steps, policy.whole)

    loop = Loop(
        group=group,
        workspace=attempt.workspace,
        store=store,
        algorithm=trainer,
        steps=trainer.steps,
        checkpoints=plan.checkpoints,
        guards=Guards(list(plan.guards), attempt.options.settings),
        stop=attempt.stop,
        beat=attempt.beat,
        reporter=attempt.reporter,
        save_policy=lambda folder: attempt.save_policy(trainer.weights, folder / POLICY_FOLDER),
        after_step=after_step,
        after_save=judging.forget,
    )
    measuring.pace(loop.pace)
    done = loop.resume(attempt.options.min_checkpoint_step)
    judging.resume(loop.last)
    trainer.begin()
    with judging.leaving_samples():
        figures = loop.run(done)
    return Trained(
        steps=trainer.steps,
        engine=", ".join([policy.describe(), critic.describe()]),
        figures=figures,
        last=loop.last,
        weights=trainer.weights,
        whole=policy.whole,
        reference=reference,
    )

"""PPO put together: models into engines, the reward journal, and the loop around algorithms/ppo_trainer.py."""

from pathlib import Path

from rlhf_trainer.algorithms.ppo_trainer import PPOTrainer
from rlhf_trainer.algorithms.rollout import RolloutWorker
from rlhf_trainer.checkpoint import POLICY_FOLDER
from rlhf_trainer.data import Prepared
from rlhf_trainer.errors import GuardStopped
from rlhf_trainer.guards import Guards
from rlhf_trainer.journal import Journal
from rlhf_trainer.loop import Loop
from rlhf_trainer.progress import say
from rlhf_trainer.samples import SampleLog
from rlhf_trainer.scoring import StepScorer

from .attempt import Attempt, Trained
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
    journal = Journal(attempt.workspace)
    names = [reward.scorer for reward in plan.rewards] + list(plan.monitors)
    samples = SampleLog(attempt.workspace.own, plan.checkpoints.every_steps, plan.rewards)
    worker = RolloutWorker(
        group=group,
        policy=policy,
        reference=reference,
        critic=critic,
        tokenizer=attempt.tokenizer,
        sampling=attempt.sampling,
        micro_batch_size=micro,
        scorer=StepScorer(attempt.scorers, names, journal, group, samples),
        beat=attempt.beat,
    )
    trainer = PPOTrainer(plan, worker, rows, micro)
    store = attempt.store("step")

    def after_step(step: int) -> None:
        if attempt.reporter is not None:
            scorers = attempt.scorers
            times = {name: scorers.timing(name).p95_seconds for name in scorers.names}
            attempt.reporter.scorer_times(times, scorers.failures())
        measuring.between(step, trainer.steps, policy.whole)

    def forget_scores() -> None:
        """Those behind the oldest checkpoint that is kept."""
        kept = store.complete()
        if kept:
            journal.forget(kept[0].step)

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
        after_save=lambda checkpoint: forget_scores(),
    )
    measuring.pace(loop.pace)
    done = loop.resume(attempt.options.min_checkpoint_step)
    known = journal.read(done if loop.last is not None else None) if group.is_main else {}
    journal.know(group.broadcast(known, "the reward journal"))
    trainer.begin()
    try:
        figures = loop.run(done)
    except GuardStopped:
        if group.is_main:
            say("last-steps", path=str(samples.leave()))
        raise
    return Trained(
        steps=trainer.steps,
        engine=", ".join([policy.describe(), critic.describe()]),
        figures=figures,
        last=loop.last,
        weights=trainer.weights,
        whole=policy.whole,
        reference=reference,
    )

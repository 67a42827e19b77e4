"""PPO's step: a batch, shaped rewards, advantages, and the updates. The mathematics is in ppo.py."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf_operator.api.algorithms import PPO, KLController
from rlhf_operator.api.base import Model
from rlhf_operator.api.plan import TrainingPlan
from rlhf_trainer.distributed import Group
from rlhf_trainer.files import write_durably
from rlhf_trainer.rewards import RewardMix, RewardState, judge_truncated
from rlhf_trainer.sampling import DataOrder, permutation, row_keys
from rlhf_trainer.schedule import learning_rate
from rlhf_trainer.scoring import DataRow

from .batch import RolloutBatch
from .judged import EmptyBatches, reference_places, reward_figures
from .ppo import AdaptiveKL, explained_variance, gae, policy_loss, shaped_rewards, value_loss, whiten
from .rollout import Rollout, RolloutWorker
from .throughput import FORWARD_FLOPS, TRAIN_FLOPS, parameter_count, peak_flops, speed

STATE_FILE = "ppo.json"


class PPOState(Model):
    """What PPO remembers beside weights and optimizers; part of every checkpoint."""

    kl_coefficient: float
    rewards: RewardState


@dataclass(frozen=True)
class Targets:
    """What the update aims at; all [batch, response] float32."""

    advantages: Tensor
    returns: Tensor
    mask: Tensor
    """1 on the tokens in the loss: those of responses that have a reward and stay in."""


class PPOTrainer:
    """One PPO run on one rank. Every method is called by all ranks together."""

    def __init__(
        self,
        plan: TrainingPlan,
        worker: RolloutWorker,
        prompts: Sequence[DataRow],
        micro_batch_size: int,
    ) -> None:
        assert plan.ppo is not None
        self._plan = plan
        self._ppo: PPO = plan.ppo
        self._worker = worker
        self._prompts = prompts
        self._micro = micro_batch_size
        self._order = DataOrder(len(prompts), plan.training.seed, "prompts")
        self._mix = RewardMix(plan.rewards)
        self._kl = AdaptiveKL(self._ppo.kl.coefficient, self._ppo.kl.target, self._ppo.kl.horizon)
        self.steps = plan.training.steps_of(len(prompts))
        self._empty = EmptyBatches(plan, self.steps)

    @property
    def _group(self) -> Group:
        return self._worker.group

    def begin(self) -> None:
        """Fix the scale of rewards that are normalised by the reference, once, before the first step."""
        if not self._mix.needs_reference:
            return
        places, chosen = reference_places(len(self._prompts), self._group)
        rows = [self._prompts[row] for row in chosen]
        keys = self._keys("reference", 0, places)
        # Before the first step the policy is the reference model.
        responses = self._worker.sample([list(row.prompt_ids) for row in rows], keys)
        self._mix.set_reference(self._worker.score(0, rows, responses))

    def step(self, step: int) -> dict[str, float]:
        """Do step 1 … N and return its figures."""
        batch_size = self._plan.training.batch_size
        first = (step - 1) * batch_size
        places = [first + place for place in self._group.share(batch_size)]
        rows = [self._prompts[self._order.at(place)] for place in places]
        began = time.monotonic()
        rollout = self._worker.make(step, rows, self._keys("rollout", step, places))
        targets, figures = self.targets(rollout)
        self._empty.see(step, bool(targets.mask.any()), rollout.scores)
        started = time.monotonic()
        if all(math.isfinite(value) for value in figures.values()):
            figures |= self.update(step, rollout.batch, targets)
        figures |= rollout.seconds | {"secondsUpdate": time.monotonic() - started}
        figures |= self._speed(rollout, figures["secondsUpdate"], time.monotonic() - began)
        if self._ppo.kl.controller is KLController.ADAPTIVE and math.isfinite(figures["kl"]):
            self._kl = self._kl.after(figures["kl"], batch_size)
        return figures

    def _speed(self, rollout: Rollout, seconds_update: float, seconds: float) -> dict[str, float]:
        batch, worker = rollout.batch, self._worker
        tokens, epochs = batch.tokens, self._ppo.epochs
        found = speed(
            float(batch.response_mask.sum()), tokens * epochs, rollout.seconds["secondsGenerate"], seconds_update
        )
        peak = peak_flops(self._group.device, self._plan.compute.precision)
        if peak is not None:
            policy, critic = parameter_count(worker.policy.module), parameter_count(worker.critic.module)
            # Sampled, judged by policy, reference and critic; then trained on.
            flops = tokens * FORWARD_FLOPS * (3 * policy + critic) + tokens * epochs * TRAIN_FLOPS * (policy + critic)
            found["mfu"] = flops / (seconds * self._group.world_size * peak)
        return found

    def _keys(self, stream: str, update: int, places: Sequence[int]) -> Tensor:
        rows = torch.tensor(list(places), dtype=torch.int64, device=self._group.device)
        return row_keys(self._plan.training.seed, stream, update, rows)

    def targets(self, rollout: Rollout) -> tuple[Targets, dict[str, float]]:
        """Advantages and returns of the global batch, and what is to be said of it. The same on every rank."""
        batch, ppo = rollout.batch, self._ppo
        combined = self._mix.combine(rollout.scores)
        finished = batch.finished.cpu()
        rewards, stays = judge_truncated(combined, finished, self._plan.generation.truncation)
        mask = batch.response_mask * stays.to(batch.response_mask).unsqueeze(1)
        per_token = shaped_rewards(rewards.to(mask), batch.logprobs, batch.reference, mask, self._kl.coefficient)
        advantages, returns = gae(per_token, batch.values, mask, ppo.gamma, ppo.lambda_)
        figures = {
            **batch.figures(),
            **reward_figures(combined, rewards, stays, rollout.scores),
            "klCoefficient": self._kl.coefficient,
            "explainedVariance": explained_variance(batch.values, returns, mask),
        }
        return Targets(whiten(advantages, mask), returns, mask), figures

    def update(self, step: int, batch: RolloutBatch, targets: Targets) -> dict[str, float]:
        """Several epochs over the batch in mini-batches; returns figures averaged over them."""
        plan, ppo = self._plan, self._ppo
        rate = learning_rate(plan.optimizer, step, self.steps)
        critic_optimizer = ppo.critic.optimizer or plan.optimizer
        critic_rate = learning_rate(critic_optimizer, step, self.steps)
        learns = step > ppo.critic.warmup_steps
        sums: dict[str, float] = {}
        updates = 0
        for epoch in range(ppo.epochs):
            order = permutation(len(batch), plan.training.seed, "minibatches", step, epoch)
            for rows in order.chunk(ppo.mini_batches):
                found = self.optimizer_step(batch, targets, rows, rate if learns else None, critic_rate)
                updates += bool(found)
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value
        figures = {name: value / updates for name, value in sums.items()}
        return {**figures, "learningRate": rate if learns else 0.0, "optimizerSteps": float(updates)}

    def optimizer_step(
        self, batch: RolloutBatch, targets: Targets, rows: Tensor, rate: float | None, critic_rate: float
    ) -> dict[str, float]:
        """One optimizer step of critic and policy on a mini-batch; a rate of None leaves the policy alone.

        rows: [mini-batch] int64, rows of the global batch. Losses are divided by the tokens of all of them, whichever
        rank and micro-batch they fall to. Returns nothing when no token of the mini-batch is in the loss.
        """
        rows = rows.to(targets.mask.device)
        tokens = targets.mask[rows].sum()
        if float(tokens) == 0.0:
            return {}
        ppo, share = self._ppo, self._group.share(len(rows))
        sums = torch.zeros(5, dtype=torch.float64, device=targets.mask.device)
        for part in rows[share.start : share.stop].split(self._micro):
            piece = batch.select(part)
            inputs, mask = piece.inputs(), targets.mask[part]
            values = self._worker.critic(*inputs)
            error = value_loss(values, piece.values, targets.returns[part], mask, ppo.value_clip, tokens)
            self._worker.critic.accumulate(error.loss)
            sums[3:] += torch.stack([error.loss.detach(), error.clipped / tokens]).double()
            if rate is not None:
                logprobs, _ = self._worker.policy(*inputs)
                loss = policy_loss(
                    logprobs, piece.logprobs, targets.advantages[part], mask, ppo.clip_low, ppo.clip_high, tokens
                )
                self._worker.policy.accumulate(loss.loss)
                sums[:3] += torch.stack(
                    [loss.loss.detach(), loss.clipped / tokens, loss.approximate_kl / tokens]
                ).double()
        critic_norm = self._worker.critic.step(critic_rate)
        norm = self._worker.policy.step(rate) if rate is not None else 0.0
        sums = self._group.sum(sums, "the sum of losses")
        names = ("policyLoss", "clipFraction", "approximateKL", "valueLoss", "valueClipFraction")
        return dict(zip(names, sums.tolist(), strict=True)) | {"gradNorm": norm, "criticGradNorm": critic_norm}

    def save(self, folder: Path) -> None:
        """Write this rank's part of policy, critic and what PPO remembers."""
        self._worker.policy.save(folder / "engine")
        self._worker.critic.save(folder / "engine")
        if self._group.is_main:
            state = PPOState(kl_coefficient=self._kl.coefficient, rewards=self._mix.state)
            write_durably(folder / STATE_FILE, state.model_dump_json(by_alias=True).encode())

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        self._worker.policy.load(folder / "engine")
        self._worker.critic.load(folder / "engine")
        state = PPOState.model_validate_json((folder / STATE_FILE).read_bytes())
        self._mix.state = state.rewards
        self._kl = AdaptiveKL(state.kl_coefficient, self._ppo.kl.target, self._ppo.kl.horizon)

    def weights(self) -> Mapping[str, Tensor]:
        """The policy's whole weights, named as its Hugging Face model names them."""
        found = self._worker.policy.weights()
        return {name.removeprefix("model."): value for name, value in found.items()}

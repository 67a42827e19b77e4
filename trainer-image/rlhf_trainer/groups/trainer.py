"""TRL's GRPOTrainer and RLOOTrainer at our generator, rewards and figures. The only file that knows their insides.

TRL's are advantages, ratios, clipping, the KL term and how losses are averaged. Ours are the responses (each draw keyed
by its row), the log-probabilities' positions, the rewards, and what is measured. TRL generates again every
steps_per_generation x iterations micro-batches: that is one step here, so every step ends on a boundary of it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from rlhf_trainer.engine import copy_whole
from rlhf_trainer.policy.heads import PolicyModel, position_ids
from rlhf_trainer.trl_bridge.trainer import Bridge

from .rollouts import GroupRollouts, Making

PLACE = "place"
"""The one column of the training data: the place of a prompt in the order of all prompts."""
Reference = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

_GENERATED = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
_CLIPPED = {
    "clip_ratio/region_mean": "clipFraction",
    "clip_ratio/low_mean": "clipFractionLow",
    "clip_ratio/high_mean": "clipFractionHigh",
}

if TYPE_CHECKING:
    _Trainer = GRPOTrainer
else:
    _Trainer = object


class GroupBridge(Bridge, _Trainer):
    """Stands in front of TRL's two trainers that learn from groups of responses."""

    def __init__(
        self,
        *,
        rollouts: GroupRollouts,
        measure: Reference | None,
        replica: Any,
        save_policy: Callable[[Path], None],
        **settings: Any,
    ) -> None:
        """Build the TRL trainer.

        measure: a reference model, where KL is measured and TRL loads none; replica: an unpartitioned model to
        generate with under ZeRO-3; save_policy: writes the policy as a Hugging Face directory, on all ranks.
        """
        self._rollouts = rollouts
        self._measure = measure
        self._replica = replica
        self._save_policy = save_policy
        self._making: Making | None = None
        self._sampled_by: Tensor | None = None
        self._reference: Tensor | None = None
        self._last_pass: tuple[Tensor, Tensor] | None = None
        self._norms: list[float] = []
        self._updating_since = 0.0
        super().__init__(reward_funcs=[_rewards_are_ours], **settings)
        self._sums = torch.zeros(7, dtype=torch.float64, device=self.accelerator.device)
        for model in (self.model, self.ref_model):
            if model is not None:
                model.register_forward_pre_hook(_with_positions, with_kwargs=True)

    @property
    def _boundary_step(self) -> int:
        """The number of the step that is being done."""
        return int(self.state.global_step) // self._control.updates + 1

    @contextmanager
    def whole(self) -> Iterator[PolicyModel]:
        """Give the whole policy for generation, under ZeRO-3 a copy filled from gathered parameters."""
        policy = cast("torch.nn.Module", self.model)
        if self._replica is not None:
            copy_whole(policy, self._replica)
            yield PolicyModel(self._replica, self.temperature)
            return
        was = policy.training
        policy.eval()
        try:
            with self.accelerator.autocast():
                yield PolicyModel(policy, self.temperature)
        finally:
            policy.train(was)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resume_from_checkpoint is not None:
            self._rollouts.load(Path(resume_from_checkpoint))
        elif self._rollouts.needs_reference:
            with self.whole() as policy:
                self._rollouts.fix_scale(policy.model)
        return prepared

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's own: a prompt comes once per response of its group, a batch once per micro-batch and iteration."""
        return super(Bridge, self)._get_train_sampler(dataset)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._making = making = self._rollouts.begin(self._boundary_step, [each[PLACE] for each in inputs])
        self._sampled_by = self._reference = None
        made: dict[str, Any] = super()._generate_and_score_completions([{"prompt": row.prompt} for row in making.rows])
        assert making.stays is not None
        mask = made["completion_mask"]
        learned = mask * making.stays.to(mask).unsqueeze(1)
        # What leaves the batch is no part of any term of the loss; TRL itself would keep its KL.
        made["tool_mask"] = learned
        made["num_items_in_batch"] = self._rollouts.group.sum(learned.sum(), "the count of tokens")
        if self._measure is not None:
            self._reference = self._measured(made)
        assert making.responses is not None
        # TRL's name; it has no use for them here.
        made["sampling_per_token_logps"] = making.responses.logprobs[:, : mask.shape[1]]
        for name, found in (("old", self._sampled_by), ("ref", self._reference)):
            if found is not None:
                made[f"{name}_per_token_logps"] = found
        self._updating_since = time.monotonic()
        return made

    @torch.no_grad()
    def _measured(self, made: Mapping[str, Tensor]) -> Tensor:
        """The reference's log-probabilities of the responses: [rows, response]."""
        assert self._measure is not None
        found = []
        for rows in torch.arange(len(made["prompt_ids"])).split(self.args.per_device_train_batch_size):
            prompts, prompt_mask, answers, mask = (made[name][rows] for name in _GENERATED)
            logprobs, _ = self._measure(
                torch.cat([prompts, answers], dim=1), torch.cat([prompt_mask, mask], dim=1), prompts.shape[1]
            )
            found.append(logprobs)
        return torch.cat(found)

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        """The prompts as the data holds them: encoded once, when it was prepared."""
        assert self._making is not None
        return [list(row.prompt_ids) for row in self._making.rows], None, {}

    def _draw(self) -> list[list[int]]:
        assert self._making is not None
        with self.whole() as policy:
            return self._rollouts.sample(policy.model, self._making)

    def _calculate_rewards(self, *_: Any) -> Tensor:
        """One reward per response of all ranks, NaN where one leaves its group: [batch, 1]."""
        assert self._making is not None
        return self._rollouts.rewards(self._making).float().to(self.accelerator.device).unsqueeze(1)

    def _get_per_token_logps_and_entropies(self, model: Any, *inputs: Any, **more: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(model, *inputs, **more)
        if torch.is_grad_enabled():
            self._last_pass = found[:2]
        elif model is self.ref_model:
            self._reference = found[0]
        else:
            self._sampled_by = found[0]
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self._see(inputs)
        return loss

    def _see(self, inputs: Mapping[str, Any]) -> None:
        """Add up what this micro-batch says. In the first pass the policy is the one that sampled."""
        assert self._last_pass is not None
        logprobs, entropy = (each.detach() for each in self._last_pass)
        mask, learned = inputs["completion_mask"], inputs["tool_mask"]
        args: Any = self.args
        passes = int(self._step) // args.steps_per_generation % self.num_iterations
        if passes == 0:
            self._sums[0] += (entropy * mask).sum()
            self._sums[1] += mask.sum()
            self._sums[2] += len(mask)
            self._sums[6] += ((logprobs - inputs["sampling_per_token_logps"]).abs() * mask).sum()
            if "ref_per_token_logps" in inputs:
                self._sums[3] += ((logprobs - inputs["ref_per_token_logps"]) * mask).sum()
        if "old_per_token_logps" in inputs:
            moved = (logprobs - inputs["old_per_token_logps"]) * learned
            self._sums[4] += 0.5 * moved.square().sum()
            self._sums[5] += learned.sum()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        self._norms.append(float(norm))
        return norm

    def step_figures(self, logs: Mapping[str, float]) -> dict[str, float]:
        """The step's figures under the names that every algorithm has them."""
        assert self._making is not None
        sums = self._rollouts.group.sum(self._sums, "the step's figures")
        entropy, tokens, rows, kl, moved, learned, drift = sums.tolist()
        figures = {**self._making.figures, "entropy": entropy / tokens, "logProbDrift": drift / tokens}
        if self._reference is not None:
            figures |= {"kl": kl / rows, "klPerToken": kl / tokens}
        if learned:
            figures["approximateKL"] = moved / learned
        figures |= {
            "policyLoss": logs["loss"],
            "gradNorm": sum(self._norms) / len(self._norms),
            "learningRate": logs["learning_rate"],
            "optimizerSteps": float(len(self._norms)),
            **{ours: logs[theirs] for theirs, ours in _CLIPPED.items() if logs.get(theirs) is not None},
            "secondsUpdate": time.monotonic() - self._updating_since,
        }
        self._sums.zero_()
        self._norms.clear()
        return figures

    def write_more(self, folder: Path) -> None:
        """Write the policy as it is published, and what rewards remember."""
        self._save_policy(folder)
        if self._rollouts.group.is_main:
            self._rollouts.save(folder)


class OurGRPOTrainer(GroupBridge, GRPOTrainer):
    """GRPO, DrGRPO and DAPO."""

    def _generate_single_turn(self, *_: Any) -> tuple[list[list[int]], None]:
        return self._draw(), None


class OurRLOOTrainer(GroupBridge, RLOOTrainer):
    """REINFORCE leave-one-out."""

    def _generate_single_turn(self, *_: Any) -> list[list[int]]:
        return self._draw()


def _rewards_are_ours(**_: Any) -> list[float]:
    raise RuntimeError("rewards come from the plan's scorers")


def _with_positions(module: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Count positions from each row's first real token, as generation does; TRL counts the padding too."""
    if named.get("fused_lm_head"):
        named = {**named, "position_ids": position_ids(named["attention_mask"])}
    return arguments, named

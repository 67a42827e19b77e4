"""One optimizer step on one fixed batch, as a rank: writes loss, gradients and weights for test_normalisation.py.

python fixed_rollout.py <world directory> <output> <micro batch size> <zero stage>
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from core.closed_form import OnePrompt
from core.tiny import World

from rlhf_trainer.algorithms.batch import RolloutBatch
from rlhf_trainer.algorithms.ppo_trainer import PPOTrainer, Targets
from rlhf_trainer.algorithms.rollout import RolloutWorker
from rlhf_trainer.distributed import join, leave
from rlhf_trainer.engine import PlainEngine
from rlhf_trainer.models import ModelFactory
from rlhf_trainer.policy.load import load_tokenizer

ROWS, PROMPT, RESPONSE, VOCABULARY = 8, 5, 7, 14


def fixed_batch() -> tuple[RolloutBatch, Targets]:
    """A batch of uneven lengths: averaging per row, micro-batch or rank would each give another loss."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([1, 7, 3, 2, 7, 5, 1, 4])
    places = torch.arange(RESPONSE).unsqueeze(0)
    mask = (places < lengths.unsqueeze(1)).float()
    prompt_mask = (torch.arange(PROMPT).unsqueeze(0) >= torch.tensor([0, 3, 1, 0, 2, 4, 0, 1]).unsqueeze(1)).long()

    def noise(scale: float = 1.0) -> torch.Tensor:
        return torch.randn(ROWS, RESPONSE, generator=generator) * scale * mask

    batch = RolloutBatch(
        prompt_tokens=torch.randint(2, VOCABULARY, (ROWS, PROMPT), generator=generator) * prompt_mask,
        prompt_mask=prompt_mask,
        response_tokens=torch.randint(2, VOCABULARY, (ROWS, RESPONSE), generator=generator),
        response_mask=mask,
        finished=torch.ones(ROWS, dtype=torch.bool),
        sampled=-2.6 * mask,
        logprobs=(-2.6 + noise(0.1)) * mask,
        reference=(-2.6 + noise(0.1)) * mask,
        values=noise(0.3),
        entropy=mask,
    )
    # One row has left the loss: its tokens must not be counted either.
    stays = torch.ones(ROWS, 1)
    stays[4] = 0.0
    return batch, Targets(advantages=noise(), returns=noise(), mask=mask * stays)


def main(root: str, output: str, micro: str, stage: str) -> None:
    """Do the step and write what it was."""
    import os

    world = int(os.environ.get("WORLD_SIZE", "1"))
    compute = {"workers": world, "zeroStage": int(stage)}
    plan = World(Path(root), {"training": {"batchSize": ROWS}, "ppo": {"miniBatches": 1}, "compute": compute}).plan
    group = join(plan.compute, 60)
    models = ModelFactory(plan, group, load_tokenizer(Path(plan.base_model.path)))
    accumulation = ROWS // world // int(micro)
    base = Path(plan.base_model.path)
    policy = models.trained_policy(base, 1.0, plan.optimizer, accumulation)
    critic = models.critic(base, plan.optimizer, accumulation)
    nothing: Any = None
    worker = RolloutWorker(
        group, policy, nothing, critic, nothing, models.sampling(), int(micro), nothing, lambda: None
    )
    trainer = PPOTrainer(plan, worker, [OnePrompt([1])], int(micro))
    gradients: dict[str, torch.Tensor] = {}
    for engine in (policy, critic):
        if isinstance(engine, PlainEngine):
            watch(engine, gradients)
    batch, targets = fixed_batch()
    order = torch.tensor([3, 1, 7, 0, 5, 4, 2, 6])
    figures = trainer.optimizer_step(batch, targets, order, 1e-2, 1e-2)
    weights = {
        f"{engine.name}/{name}": value for engine in (policy, critic) for name, value in engine.weights().items()
    }
    if group.is_main:
        torch.save({"figures": figures, "gradients": gradients, "weights": weights}, output)
    leave()


def watch(engine: PlainEngine, into: dict[str, torch.Tensor]) -> None:
    """Keep the gradients (summed over ranks, and clipped) that the optimizer is given."""

    def keep(*_: Any) -> None:
        for name, value in engine.module.named_parameters():
            if value.grad is not None:
                into[f"{engine.name}/{name}"] = value.grad.clone()

    engine._optimizer.register_step_pre_hook(keep)


if __name__ == "__main__":
    main(*sys.argv[1:])
    # As the trainer ends: destructors of communicators can abort.
    os._exit(0)

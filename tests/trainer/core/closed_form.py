"""A task small enough to be solved exactly: 7 letters and an end, at most 4 of them, and a fixed reference.

max over π of E_π[r] − β KL(π ‖ ref) is J* = β log E_ref[exp(r / β)], and every outcome can be enumerated.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_operator.api.plan import TrainingPlan
from rlhf_trainer.algorithms.ppo_trainer import PPOTrainer
from rlhf_trainer.algorithms.rollout import RolloutWorker
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.journal import Journal
from rlhf_trainer.models import ModelFactory
from rlhf_trainer.policy.load import load_tokenizer
from rlhf_trainer.scoring import StepScorer

from .tiny import World, make_tokenizer

LETTERS = ["a", "b", "c", "d", "e", "f", "g"]
LENGTH = 4


def outcomes() -> list[tuple[int, ...]]:
    """Every outcome as letter numbers 0 … 6: those shorter than LENGTH end by themselves. 2,801 in all."""
    return [word for length in range(LENGTH + 1) for word in itertools.product(range(len(LETTERS)), repeat=length)]


def reward_table(seed: int, scale: float = 1.0) -> dict[tuple[int, ...], float]:
    """Random weights per position plus random pairwise terms: structure that a policy can find by steps."""
    generator = torch.Generator().manual_seed(seed)
    single = torch.randn(LENGTH, len(LETTERS), generator=generator)
    pair = torch.randn(LENGTH - 1, len(LETTERS), len(LETTERS), generator=generator)
    found = {}
    for word in outcomes():
        value = sum(float(single[place, letter]) for place, letter in enumerate(word))
        value += 0.5 * sum(float(pair[place, one, two]) for place, (one, two) in enumerate(itertools.pairwise(word)))
        found[word] = scale * value
    return found


@dataclass
class TableScorers:
    """A scorer that looks rewards up."""

    table: Mapping[tuple[int, ...], float]

    def score(
        self, name: str, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """Score by table."""
        return [self.table[tuple(LETTERS.index(letter) for letter in text.split())] for text in responses]

    def digest(self, name: str) -> str:
        """One table, one digest."""
        return "sha256:" + "0" * 64


@dataclass
class OnePrompt:
    """The only row there is."""

    prompt_ids: list[int]
    number: int = 1
    prompt: str = "a"
    response: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


def make_letters(directory: Path, seed: int) -> Path:
    """A reference model over 8 tokens: the end and seven letters, nothing else to give mass to."""
    tokenizer = make_tokenizer(LETTERS, unknown=False)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=16,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@dataclass
class Solved:
    """How far a run went from the reference's objective to the best there is."""

    start: float
    end: float
    best: float

    @property
    def share(self) -> float:
        """Share of the way from J(ref) to J*."""
        return (self.end - self.start) / (self.best - self.start)


class LetterTask:
    """PPO on the letter task, in this process."""

    def __init__(self, root: Path, seed: int, beta: float, **changes: Any) -> None:
        self.beta = beta
        base = make_letters(root / "base", seed)
        plan_changes = {
            "training": {"steps": 200, "batchSize": 128, "seed": seed},
            "optimizer": {"learningRate": 1e-3, "schedule": "Linear", "warmupSteps": 5, "minLearningRateRatio": 0.05},
            "generation": {"maxResponseLength": LENGTH, "truncation": {"mode": "Score"}},
            "scorers": [{"name": "table", "grader": {"regex": {"pattern": "a"}}}],
            "rewards": [{"scorer": "table"}],
            "ppo": {"epochs": 2, "miniBatches": 2, "kl": {"coefficient": beta, "controller": "Fixed"}},
        }
        merged: dict[str, Any] = {**plan_changes}
        for key, value in changes.items():
            merged[key] = {**merged.get(key, {}), **value}
        self.plan: TrainingPlan = World(root, merged).plan
        self.table = reward_table(seed)
        group = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
        tokenizer = load_tokenizer(base)
        models = ModelFactory(self.plan, group, tokenizer)
        workspace = Workspace(root / "storage" / "letters", 1)
        workspace.claim()
        ppo = self.plan.ppo
        assert ppo is not None
        self.policy = models.trained_policy(base, 1.0, self.plan.optimizer, 1)
        self.reference = models.reference(base, 1.0)
        worker = RolloutWorker(
            group=group,
            policy=self.policy,
            reference=self.reference,
            critic=models.critic(base, ppo.critic.optimizer or self.plan.optimizer, 1),
            tokenizer=tokenizer,
            sampling=models.sampling(),
            micro_batch_size=128,
            scorer=StepScorer(TableScorers(self.table), ["table"], Journal(workspace), group),
            beat=lambda: None,
        )
        self.trainer = PPOTrainer(self.plan, worker, [OnePrompt([1])], 128)

    def logprobs(self, model: Any) -> Tensor:
        """Exact log-probability of every outcome. Shape [2801], float64."""
        words = outcomes()
        tokens = torch.zeros((len(words), 1 + LENGTH), dtype=torch.int64)
        mask = torch.zeros((len(words), LENGTH))
        tokens[:, 0] = 1
        for row, word in enumerate(words):
            tokens[row, 1 : 1 + len(word)] = torch.tensor(word, dtype=torch.int64) + 1
            mask[row, : min(LENGTH, len(word) + 1)] = 1.0
        with torch.no_grad():
            found, _ = model(tokens, torch.ones_like(tokens), 1)
        return (found * mask).double().sum(dim=1)

    def solve(self) -> Solved:
        """Train, and measure the objective exactly before and after."""
        rewards = torch.tensor([self.table[word] for word in outcomes()], dtype=torch.float64)
        reference = self.logprobs(self.reference)
        assert abs(float(reference.exp().sum()) - 1) < 1e-5, "the outcomes must be all there is"
        best = self.beta * float(torch.logsumexp(reference + rewards / self.beta, dim=0))
        self.trainer.begin()
        for step in range(1, self.trainer.steps + 1):
            self.trainer.step(step)
        policy = self.logprobs(self.policy)
        objective = float((policy.exp() * (rewards - self.beta * (policy - reference))).sum())
        return Solved(start=float((reference.exp() * rewards).sum()), end=objective, best=best)

"""A small world of given responses: what users like is "sorry", what they don't is "bad"; a plan, and the trainer."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_operator.api.plan import TrainingPlan
from rlhf_scoring.build import build_scorers
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.options import RunOptions
from rlhf_trainer.session import Session
from rlhf_trainer.signals import StopFlag
from rlhf_trainer.supported import check_supported
from trainer.core.tiny import PROMPTS, WORDS, World, merge

BLOCKS: dict[str, dict[str, Any]] = {"SFT": {}, "DPO": {"beta": 0.1}, "KTO": {"beta": 0.1}}
DATA = {
    "SFT": ("Demonstrations", {"prompt": "prompt", "response": "chosen"}),
    "DPO": ("Pairs", {"prompt": "prompt"}),
    "KTO": ("Pairs", {"prompt": "prompt"}),
}
HELD_OUT = 8


def judged(seed: int = 3) -> list[dict[str, str]]:
    """One pair for each prompt: the better response has "sorry" in it, the other "bad"; lengths differ by row."""
    draw = random.Random(seed)
    found = []
    for prompt in PROMPTS:
        texts = []
        for mark in ("sorry", "bad"):
            words = [draw.choice(WORDS[5:10]) for _ in range(draw.randint(1, 3))]
            words.insert(draw.randrange(len(words) + 1), mark)
            texts.append(" ".join(words))
        found.append({"prompt": prompt, "chosen": texts[0], "rejected": texts[1]})
    return found


@dataclass
class OfflineWorld(World):
    """A directory with everything that a run of SFT, DPO or KTO needs."""

    algorithm: str = "DPO"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data = self.root / "judged.jsonl"
        self.held_out = self.root / "held-out.jsonl"
        if not self.data.is_file():
            rows = judged()
            self.rows(rows[HELD_OUT:])
            self.held_out.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows[:HELD_OUT]))

    def rows(self, rows: list[dict[str, Any]]) -> None:
        """Replace the training data."""
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @property
    def plan(self) -> TrainingPlan:
        """A plan of the algorithm for one CPU process; `changes` are merged in."""
        wanted, columns = DATA[self.algorithm]
        own: dict[str, Any] = {
            "algorithm": self.algorithm,
            "ppo": None,
            self.algorithm.lower(): BLOCKS[self.algorithm],
            "dataset": {
                "name": "train",
                "path": str(self.data),
                "ref": "pvc://data/judged.jsonl",
                "format": wanted,
                "columns": columns,
            },
            "rewards": None,
            "generation": {"truncation": None},
            "training": {"steps": 8, "batchSize": 8},
            "evaluation": {
                "dataset": {
                    "name": "evaluation",
                    "path": str(self.held_out),
                    "ref": "pvc://data/held-out.jsonl",
                    "format": "Prompts",
                    "columns": {"prompt": "prompt"},
                },
                "baselines": ["Base"],
                "scorers": ["sorry"],
            },
        }
        raw = super().plan.dump()
        return TrainingPlan.model_validate(merge(merge(raw, own), self.changes))

    def run_here(self, micro: int = 4) -> None:
        """Run the plan in this process, on one rank."""
        plan = self.plan
        check_supported(plan, micro)
        workspace = Workspace(self.workspace, 1)
        workspace.open()
        workspace.claim()
        options = RunOptions(
            plan=self.root / "plan.json",
            settings=None,
            workspace=self.workspace,
            attempt=1,
            micro_batch_size=micro,
            min_checkpoint_step=0,
        )
        group = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
        with build_scorers(plan.scorers) as scorers:
            Session(plan, options, workspace, group, scorers, StopFlag(), lambda: None, None).run()


MakeWorld = Callable[..., OfflineWorld]
__all__ = ["MakeWorld", "OfflineWorld", "Path", "judged"]

"""A small world of given responses: what users like is "sorry", what they don't is "bad"; a plan, and the trainer."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_scoring.build import build_scorers
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.options import RunOptions
from rlhf_trainer.progress import Reporter
from rlhf_trainer.session import Session
from rlhf_trainer.signals import StopFlag
from rlhf_trainer.supported import check_supported
from trainer.core.tiny import PROMPTS, WORDS, World, free_port, inherited_environment, merge

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

    def raw(self) -> dict[str, Any]:
        """A plan of the algorithm for one CPU process."""
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
        return merge(super().raw(), own)

    def run_here(
        self, micro: int = 4, attempt: int = 1, stop: StopFlag | None = None, group: Group | None = None
    ) -> None:
        """Run the plan in this process, as the only rank or one of a group; rank 0 tells standard output."""
        plan = self.plan
        group = group or Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
        check_supported(plan, micro)
        workspace = Workspace(self.workspace, attempt)
        workspace.open()
        if group.is_main:
            workspace.claim()
        group.barrier("the claim")
        options = RunOptions(
            plan=self.root / "plan.json",
            settings=None,
            workspace=self.workspace,
            attempt=attempt,
            micro_batch_size=micro,
            min_checkpoint_step=0,
        )
        with build_scorers(plan.scorers) as scorers:
            reporter = Reporter(plan.digest(), attempt, 0) if group.is_main else None
            Session(plan, options, workspace, group, scorers, stop or StopFlag(), lambda: None, reporter).run()


def steps(said: str) -> list[dict[str, Any]]:
    """The figures of each step that a run told."""
    events = [json.loads(line) for line in said.splitlines() if line.startswith('{"time"')]
    return [event for event in events if event["event"] == "step"]


class StopAfter(StopFlag):
    """A stop that comes while a step is done: the boundary looks once for each."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def is_set(self) -> bool:
        """Whether so many steps were done."""
        self._left -= 1
        return self._left < 0

    def leaves_time_for(self, seconds: float) -> bool:
        """There is no hurry."""
        return True


def two_ranks(root: Path, stage: int, mode: str) -> str:
    """Run two_ranks.py as two processes; returns what rank 0 said."""
    OfflineWorld(root)
    script, port = Path(__file__).with_name("two_ranks.py"), free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(root), str(stage), mode],
            env={
                **inherited_environment(),
                "OMP_NUM_THREADS": "1",
                "DS_BUILD_OPS": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=580)[0].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(words[-4000:] for words in said)
    return said[0]


MakeWorld = Callable[..., OfflineWorld]

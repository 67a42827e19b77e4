"""A small world of judged pairs: words that make an answer good, tiny models, a plan, and the trainer."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_operator.api.result import Result, TerminationMessage
from rlhf_operator.api.rewardgate import RewardGate
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_scoring.build import build_scorers
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.options import RunOptions
from rlhf_trainer.publish import publish
from rlhf_trainer.reward.session import RewardSession
from rlhf_trainer.signals import StopFlag
from rlhf_trainer.supported import check_reward_model
from smallplan import COMPUTE
from trainer.core.tiny import World, merge

GOOD = ["kind", "clear", "true", "brief"]
BAD = ["rude", "vague", "false", "lost"]
PLAIN = [f"w{number}" for number in range(24)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>"]
NUMBER = {word: at for at, word in enumerate([*SPECIAL, *GOOD, *BAD, *PLAIN])}


def word_level(*, encoder: bool) -> PreTrainedTokenizerFast:
    """One token per word; an encoder's builds pairs, a decoder's has no padding token."""
    tokenizer = Tokenizer(models.WordLevel(NUMBER, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not encoder:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="<s>", eos_token="</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", NUMBER["[CLS]"]), ("[SEP]", NUMBER["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


def make_encoder(folder: Path) -> Path:
    """A BERT without a head, dropout on, random weights."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(NUMBER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    word_level(encoder=True).save_pretrained(folder)
    return folder


def make_decoder(folder: Path) -> Path:
    """A Llama language model with random weights."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(NUMBER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=NUMBER["<s>"],
        eos_token_id=NUMBER["</s>"],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    word_level(encoder=False).save_pretrained(folder)
    return folder


def answer(draw: random.Random, marks: list[str], words: int = 3) -> str:
    """An answer that one word makes good or bad."""
    text = [draw.choice(PLAIN) for _ in range(words)]
    text.insert(draw.randrange(words + 1), draw.choice(marks))
    return " ".join(text)


def pairs(count: int = 120, seed: int = 5) -> list[dict[str, Any]]:
    """Judged pairs; the first of the two columns is the better one, of a length like the other's."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        prompt = f"w{number % 24} w{number // 24} w{(7 * number) % 24}"
        found.append({"prompt": prompt, "chosen": answer(draw, GOOD), "rejected": answer(draw, BAD)})
    return found


@dataclass
class RewardWorld(World):
    """A directory with everything that a RewardModel's run needs."""

    def __post_init__(self) -> None:
        self.base = self.root / "base"
        if not self.base.is_dir():
            make_encoder(self.base)
        self.data = self.root / "pairs.jsonl"
        self.storage = self.root / "storage"
        self.storage.mkdir(exist_ok=True)
        if not self.data.is_file():
            self.judged(pairs())

    def judged(self, rows: list[dict[str, Any]]) -> None:
        """Replace the judged rows."""
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @property
    def plan(self) -> RewardPlan:  # type: ignore[override]
        """A plan for one CPU process with a tenth of the prompts held out; `changes` are merged in."""
        raw: dict[str, Any] = {
            "kind": "RewardModel",
            "name": "tiny",
            "namespace": "default",
            "image": "trainer:test",
            "dimensions": ["overall"],
            "train": {
                "baseModel": {"path": str(self.base), "ref": "pvc://models/base"},
                "dataset": {
                    "name": "train",
                    "path": str(self.data),
                    "ref": "pvc://data/pairs.jsonl",
                    "format": "Pairs",
                    "columns": {},
                },
                "aggregation": {},
                "epochs": 6,
                "batchSize": 16,
                "seed": 17,
                "optimizer": {"learningRate": 5e-3, "schedule": "Linear", "warmupSteps": 2},
                "maxLength": 32,
            },
            "evaluation": {"heldOutFraction": 0.25},
            "compute": dict(COMPUTE),
            "checkpoints": {"everySteps": 4, "keep": 2, "gracePeriodSeconds": 60},
            "timeouts": {"startupSeconds": 120, "progressSeconds": 300},
            "output": {"claim": "models", "path": "helpful"},
        }
        return RewardPlan.model_validate(merge(raw, self.changes))

    def run_here(self, attempt: int = 1) -> Result:
        """Make the version in this process, which has imported everything already."""
        plan = self.plan
        check_reward_model(plan, 4)
        settings = self.root / "settings.json"
        workspace = Workspace(self.workspace, attempt)
        workspace.open()
        workspace.claim()
        options = RunOptions(
            plan=self.root / "plan.json",
            settings=settings if settings.exists() else None,
            workspace=self.workspace,
            attempt=attempt,
            micro_batch_size=4,
            min_checkpoint_step=0,
        )
        group = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
        with build_scorers([each.scorer for each in plan.graders]) as scorers:
            RewardSession(plan, options, workspace, group, scorers, StopFlag(), lambda: None, None).run()
        return self.result()

    def publish(self, gate: RewardGate | None = None, key: Path | None = None) -> TerminationMessage:
        """Judge and publish in this process."""
        return publish(self.plan, self.workspace, self.root / "output", key, gate)


MakeWorld = Callable[..., RewardWorld]

"""DPO and KTO on real preferences: held-out accuracy, split by prompt, beside two figures that need no training.

A policy made on the spot (byte-level BPE and 2 layers, from the training texts) learns the chosen responses first (the
warm start) and is then trained on the pairs. `RLHF_DATA` names the folder of pandalm_human_preferences.jsonl.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bench.harness import Report, Row
from rlhf_operator.api.data import Columns, Format
from rlhf_operator.api.plan import TrainingPlan
from rlhf_scoring.build import build_scorers
from rlhf_trainer.data.rows import Unusable, meaning
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.options import RunOptions
from rlhf_trainer.preferences.split import Part, held_out
from rlhf_trainer.session import Session
from rlhf_trainer.signals import StopFlag
from smallplan import merge, raw_plan

BESIDE = Path(__file__).parents[3] / "shared" / "data"
FILE = "pandalm_human_preferences.jsonl"
COLUMNS = Columns(
    prompt=["instruction", "input"],
    responses=["response1", "response2"],
    annotators=["annotator1", "annotator2", "annotator3"],
)
HELD_OUT = 0.25
SEED = 17
VOCABULARY, WIDTH, LAYERS, LONGEST = 2000, 96, 2, 192
BLOCKS: dict[str, dict[str, Any]] = {"DPO": {"beta": 0.1}, "KTO": {"beta": 0.1}}
RESAMPLES = 2000


class Pair(NamedTuple):
    """A prompt with the response that most annotators preferred, and the other."""

    prompt: str
    chosen: str
    rejected: str


Margin = Callable[[Pair], float]
"""Above 0: the chosen response is ranked first."""


def run() -> Report:
    """Train both, and judge the held-out pairs by everything."""
    path = Path(os.environ.get("RLHF_DATA", BESIDE)) / FILE
    if not path.is_file():
        sys.exit(f"{FILE} is neither in {BESIDE} nor where RLHF_DATA says")
    everything = list(read(path))
    train, judged = split(everything)
    rows = []
    with tempfile.TemporaryDirectory(prefix="rlhf-preferences-") as folder:
        root = Path(folder)
        base, tokenizer = make_base(root / "base", train)
        margins: dict[str, Margin] = {"longerWins": lambda pair: len(pair.chosen) - len(pair.rejected)}
        for algorithm in BLOCKS:
            warm, trained = (load(where) for where in train_one(root, base, train, algorithm))
            if "perToken" not in margins:
                margins["perToken"] = between(lambda *text, model=warm: logprob(model, tokenizer, *text, mean=True))
            margins[algorithm.lower()] = between(
                lambda *text, new=trained, old=warm: logprob(new, tokenizer, *text) - logprob(old, tokenizer, *text)
            )
        for name, margin in margins.items():
            wins = [1.0 if (found := margin(pair)) > 0 else 0.5 if found == 0 else 0.0 for pair in judged]
            low, high = interval(wins, [pair.prompt for pair in judged])
            rows += [
                Row(f"{name}_accuracy", f"{LABELS[name]}: accuracy on held-out pairs", sum(wins) / len(wins)),
                Row(f"{name}_low", "  95 % interval by prompt, lower", low),
                Row(f"{name}_high", "  95 % interval by prompt, upper", high),
            ]
    prompts = len({pair.prompt for pair in judged})
    return Report(
        rows, notes=[f"{len(train)} pairs to learn from, {len(judged)} held out ({prompts} prompts); no prompt in both"]
    )


LABELS = {
    "longerWins": "the longer response wins",
    "perToken": "warm start's log-probability per token",
    "dpo": "DPO's reward",
    "kto": "KTO's reward",
}


def read(path: Path) -> Iterator[Pair]:
    """The rows with a majority; the others are what data preparation leaves out."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = meaning(Format.PAIRS, COLUMNS, number, json.loads(line))
        except Unusable:
            continue
        assert row.chosen is not None
        assert row.rejected is not None
        yield Pair(row.prompt, row.chosen, row.rejected)


def split(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Parts by prompt: several pairs share one, and a split by row would leak."""
    numbers = {prompt: at for at, prompt in enumerate(sorted({pair.prompt for pair in pairs}))}
    parts = held_out(numbers.values(), HELD_OUT, SEED)
    out = [pair for pair in pairs if parts[numbers[pair.prompt]] is Part.HELD_OUT]
    return [pair for pair in pairs if parts[numbers[pair.prompt]] is not Part.HELD_OUT], out


def make_base(folder: Path, train: Sequence[Pair]) -> tuple[Path, Any]:
    """A policy that has seen nothing, and a tokenizer of the training texts alone."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    plain.train_from_iterator((text for pair in train for text in pair), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<end>")
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2 * LONGEST,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer


def train_one(root: Path, base: Path, train: Sequence[Pair], algorithm: str) -> tuple[Path, Path]:
    """Warm start and training; returns the folders of both policies."""
    data = root / "train.jsonl"
    data.write_text("".join(json.dumps(pair._asdict()) + "\n" for pair in train))
    source = {"path": str(data), "ref": "pvc://data/train.jsonl"}
    changes = {
        "algorithm": algorithm,
        algorithm.lower(): BLOCKS[algorithm],
        "baseModel": {"path": str(base)},
        "warmStart": {
            "dataset": {**source, "name": "warmStart", "format": "Demonstrations", "columns": {"response": "chosen"}},
            "epochs": 6,
            "batchSize": 16,
            "seed": SEED,
            "optimizer": {"learningRate": 2e-3, "warmupSteps": 10},
        },
        "training": {"steps": None, "epochs": 2, "batchSize": 16, "seed": SEED},
        "optimizer": {"learningRate": 2e-4, "warmupSteps": 5},
        "generation": {"maxPromptLength": LONGEST, "maxResponseLength": LONGEST, "overlongPrompt": "TruncateLeft"},
        "checkpoints": {"everySteps": 1000, "keep": 1},
    }
    raw = raw_plan({**source, "name": "train", "format": "Pairs", "columns": {}})
    plan = TrainingPlan.model_validate(merge(raw, changes))
    where = root / algorithm
    where.mkdir()
    workspace = Workspace(where / "workspace", 1)
    workspace.open()
    workspace.claim()
    options = RunOptions(where / "plan.json", None, workspace.root, 1, 8, 0)
    group = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    with build_scorers([]) as scorers:
        Session(plan, options, workspace, group, scorers, StopFlag(), lambda: None, None).run()
    [warm] = (workspace.own / "checkpoints").glob("warmstart-*")
    return warm / "policy", workspace.own / "policy"


def load(folder: Path) -> Any:
    """A policy, to be read from."""
    return LlamaForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@torch.no_grad()
def logprob(model: Any, tokenizer: Any, prompt: str, response: str, mean: bool = False) -> float:
    """Log-probability of a response with its end, summed over tokens or their mean, in nats."""
    before = tokenizer(prompt).input_ids[-LONGEST:]
    after = [*tokenizer(response).input_ids, tokenizer.eos_token_id][:LONGEST]
    logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    found = logits.log_softmax(-1).gather(1, torch.tensor(after).unsqueeze(1))
    return float(found.mean() if mean else found.sum())


def between(score: Callable[..., float]) -> Margin:
    """The margin that a score of (prompt, response) gives a pair."""
    return lambda pair: score(pair.prompt, pair.chosen) - score(pair.prompt, pair.rejected)


def interval(wins: Sequence[float], prompts: Sequence[str]) -> tuple[float, float]:
    """95 % of the mean, by prompt: all pairs of a prompt are drawn together."""
    groups: dict[str, list[float]] = {}
    for win, prompt in zip(wins, prompts, strict=True):
        groups.setdefault(prompt, []).append(win)
    draw, values = random.Random(SEED), list(groups.values())
    means = []
    for _ in range(RESAMPLES):
        drawn = [win for group in draw.choices(values, k=len(values)) for win in group]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]

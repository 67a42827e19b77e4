"""The trainer's PPO beside TRL 1.12's (the last release that has one), equal work on the CPU: samples per second.

Equal is counted on both sides and asserted: tokens generated (no response can end by itself), optimizer steps, batch
and micro-batch, models of one shape for policy, critic, reference and reward. The first update of a run warms up and
does not count. Runs alternate, ours first, and the ratio is that of the medians.
Settings for comparisons: BENCH_RUNS (3), BENCH_UPDATES (4), BENCH_WIDTH (256), BENCH_RESPONSE (64).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXForSequenceClassification

from bench.harness import Report, Row
from bench.peers.environment import python_of
from trainer.core.tiny import World, make_tokenizer

RUNS = int(os.environ.get("BENCH_RUNS", "3"))
UPDATES = int(os.environ.get("BENCH_UPDATES", "4"))
WIDTH = int(os.environ.get("BENCH_WIDTH", "256"))
RESPONSE = int(os.environ.get("BENCH_RESPONSE", "64"))
PROMPT = 64
LAYERS = 4
VOCABULARY = 8192
BATCH, MICRO, EPOCHS = 32, 8, 4
LEARNING_RATE, KL = 1.0e-5, 0.05
DEFAULT_EVERY_STEPS = 25
"""Of checkpoints, as API.md has it: what their cost is spread over."""
_RUN_SECONDS = 3600.0
_NEVER = -1.0e4
PEER_SCRIPT = Path(__file__).parent / "peers" / "trl_ppo.py"
PEER = ("trl==1.12.0", *(f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "transformers")))


@dataclass(frozen=True)
class Update:
    """The end of one update: when, and what was done by then."""

    at: float
    """Seconds on a clock of the run."""
    optimizer_steps: int
    tokens: int


def run() -> Report:
    """The whole benchmark."""
    python = python_of("trl-ppo", PEER)
    ours: list[float] = []
    peers: list[float] = []
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rlhf-bench-trainer-") as scratch:
        root = Path(scratch)
        make_models(root)
        for number in range(RUNS):
            mine, steps = _ours(root, number)
            peer = _peer(root, python, number)
            _same_work(mine, peer)
            ours.append(_samples_per_second(mine))
            peers.append(_samples_per_second(peer))
            figures += steps
            print(f"run {number + 1}: {ours[-1]:.2f} samples/s, TRL 1.12 {peers[-1]:.2f}", flush=True)
    return _report(ours, peers, figures)


def make_models(root: Path) -> None:
    """A policy that never ends a response by itself, a reward model of its shape, and prompts of one length."""
    words = [f"w{number}" for number in range(VOCABULARY - 2)]
    tokenizer = make_tokenizer(words)
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": PROMPT + RESPONSE,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    policy = GPTNeoXForCausalLM(GPTNeoXConfig(**shape))
    with torch.no_grad():
        # One component of the last hidden state is always 1: through it the special tokens' logits are out of reach.
        policy.gpt_neox.final_layer_norm.weight[0] = 0.0
        policy.gpt_neox.final_layer_norm.bias[0] = 1.0
        head = policy.get_output_embeddings().weight
        head[:, 0] = 0.0
        head[:2, 0] = _NEVER
    policy.save_pretrained(root / "base")
    GPTNeoXForSequenceClassification(GPTNeoXConfig(**shape, num_labels=1)).save_pretrained(root / "reward")
    for folder in ("base", "reward"):
        tokenizer.save_pretrained(root / folder)
    draw = random.Random(1)
    lines = [json.dumps({"prompt": " ".join(draw.choices(words, k=PROMPT))}) for _ in range(8 * BATCH)]
    (root / "prompts.jsonl").write_text("\n".join(lines) + "\n")


def _ours(root: Path, number: int) -> tuple[list[Update], list[dict[str, Any]]]:
    """One run of the trainer, as a pod runs it; returns its updates, and its figures with the time between steps."""
    prompts = (root / "prompts.jsonl").read_text()
    world = World(
        root,
        {
            "name": f"bench-{number}",
            "scorers": [
                {
                    "name": "score",
                    "grader": None,
                    "rewardModel": {"name": "reward", "path": str(root / "reward"), "dimension": "total"},
                }
            ],
            "rewards": [{"scorer": "score", "weight": 1.0}],
            "training": {"steps": UPDATES, "batchSize": BATCH},
            "optimizer": {"learningRate": LEARNING_RATE},
            "generation": {"maxPromptLength": PROMPT, "maxResponseLength": RESPONSE},
            "ppo": {"epochs": EPOCHS, "miniBatches": 1, "kl": {"coefficient": KL, "controller": "Fixed"}},
            "checkpoints": {"everySteps": UPDATES},
        },
    )
    world.prompts.write_text(prompts)
    process = world.start(micro=MICRO, environment={"OMP_NUM_THREADS": str(_threads())})
    if (code := process.wait(_RUN_SECONDS)) != 0:
        raise RuntimeError(f"the trainer ended with {code}:\n{process.tail()}")
    updates, figures, steps, tokens = [], [], 0, 0
    for event in process.events("step"):
        steps += round(event["optimizerSteps"])
        tokens += round(event["responseTokens"] * BATCH)
        at = datetime.fromisoformat(event["time"]).timestamp()
        if updates:
            figures.append({**event, "secondsBetween": at - updates[-1].at})
        updates.append(Update(at, steps, tokens))
    saved = [datetime.fromisoformat(each["time"]).timestamp() for each in process.events("checkpoint")]
    figures[-1]["secondsSave"] = saved[-1] - updates[-1].at
    return updates, figures


def _peer(root: Path, python: Path, number: int) -> list[Update]:
    """One run of TRL's."""
    settings = {
        "threads": _threads(),
        "base": str(root / "base"),
        "reward": str(root / "reward"),
        "prompts": str(root / "prompts.jsonl"),
        "output": str(root / f"trl-{number}"),
        "batchSize": BATCH,
        "microBatchSize": MICRO,
        "responseTokens": RESPONSE,
        "updates": UPDATES,
        "epochs": EPOCHS,
        "klCoefficient": KL,
        "learningRate": LEARNING_RATE,
    }
    file = root / "trl.json"
    file.write_text(json.dumps(settings))
    own = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [python, PEER_SCRIPT, file],
        env={
            **{name: value for name, value in os.environ.items() if name not in own},
            "OMP_NUM_THREADS": str(_threads()),
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        },
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"TRL ended with {done.returncode}:\n{done.stderr[-4000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"step"')]
    return [Update(line["at"], line["optimizerSteps"], line["tokens"]) for line in lines]


def _same_work(ours: list[Update], peer: list[Update]) -> None:
    """Raise when both sides did not do the same."""
    wanted = [(EPOCHS * at, BATCH * RESPONSE * at) for at in range(1, UPDATES + 1)]
    for name, updates in (("the trainer", ours), ("TRL", peer)):
        found = [(each.optimizer_steps, each.tokens) for each in updates]
        if found != wanted:
            raise RuntimeError(f"{name} did (optimizer steps, tokens) {found}, wanted {wanted}")


def _samples_per_second(updates: list[Update]) -> float:
    return BATCH * (len(updates) - 1) / (updates[-1].at - updates[0].at)


def _report(ours: list[float], peers: list[float], figures: list[dict[str, Any]]) -> Report:
    phases = ("secondsGenerate", "secondsScore", "secondsForward", "secondsUpdate")
    mean = {name: statistics.mean(each[name] for each in figures) for name in (*phases, "secondsStep")}
    said = statistics.mean(each["secondsBetween"] - each["secondsStep"] for each in figures)
    saved = statistics.mean(each["secondsSave"] for each in figures if "secondsSave" in each) / DEFAULT_EVERY_STEPS
    rows = [
        Row("samples_ratio_cpu", "samples/s, ours over TRL 1.12", _median(ours) / _median(peers), "at least 2"),
        Row("samples_per_second", "samples/s, ours", _median(ours)),
        Row("trl_samples_per_second", "samples/s, TRL 1.12", _median(peers)),
        Row("tokens_per_second", "tokens/s generated, the whole update counted", _median(ours) * RESPONSE),
        Row(
            "overhead_rate",
            f"checkpoints (one in {DEFAULT_EVERY_STEPS} steps) and metrics, share of wall time",
            (said + saved) / (mean["secondsStep"] + said + saved),
            "at most 0.05",
        ),
        *(Row(_key(name), name, mean[name]) for name in phases),
    ]
    notes = [
        f"{BATCH} prompts of {PROMPT} tokens, responses of {RESPONSE}, {EPOCHS} epochs of one mini-batch, "
        f"micro-batches of {MICRO}; GPT-NeoX {WIDTH} x {LAYERS}, vocabulary {VOCABULARY}",
        f"{_threads()} threads on both sides",
        f"runs, ours / TRL: {', '.join(f'{one:.2f} / {two:.2f}' for one, two in zip(ours, peers, strict=True))}",
    ]
    return Report(rows, notes, {"ours": ours, "trl": peers})


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _key(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _threads() -> int:
    return os.cpu_count() or 1

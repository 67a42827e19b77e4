"""A tiny world to train in: a tokenizer and a Llama made on the spot, prompts, a plan, and the trainer as a process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Result, TerminationMessage
from smallplan import merge, raw_plan

WORDS = ["please", "thanks", "order", "late", "sorry", "refund", "soon", "help", "no", "yes", "good", "bad"]
PROMPTS = [f"{first} {second} {third}" for first in WORDS[2:6] for second in WORDS[6:9] for third in WORDS[9:12]]


def make_tokenizer(words: list[str], unknown: bool = True) -> PreTrainedTokenizerFast:
    """One token per word behind the end token, with or without a token for unknown words."""
    special = ["<eos>", "<unk>"] if unknown else ["<eos>"]
    vocabulary = {word: place for place, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>" if unknown else None
    )


def make_base(directory: Path, seed: int = 0, width: int = 32, layers: int = 2, positions: int = 64) -> Path:
    """A from-scratch model and tokenizer as a Hugging Face directory."""
    tokenizer = make_tokenizer(WORDS)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
            tie_word_embeddings=False,
        )
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@dataclass
class World:
    """A directory with everything that a run needs."""

    root: Path
    changes: dict[str, Any] = field(default_factory=dict)
    runs: list["Run"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base = self.root / "base"
        if not self.base.is_dir():
            make_base(self.base)
        self.prompts = self.root / "prompts.jsonl"
        self.prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
        self.storage = self.root / "storage"
        self.storage.mkdir(exist_ok=True)

    @property
    def plan(self) -> TrainingPlan:
        """The world's plan with its changes."""
        return TrainingPlan.model_validate(merge(self.raw(), self.changes))

    def raw(self) -> dict[str, Any]:
        """A PPO plan for one CPU process that likes long answers with 'sorry' in them."""
        raw = raw_plan(
            {
                "name": "train",
                "path": str(self.prompts),
                "ref": "pvc://data/prompts.jsonl",
                "format": "Prompts",
                "columns": {"prompt": "prompt"},
            }
        )
        own: dict[str, Any] = {
            "name": "tiny",
            "baseModel": {"path": str(self.base)},
            "scorers": [{"name": "sorry", "grader": {"regex": {"pattern": "sorry"}}}],
            "rewards": [{"scorer": "sorry", "weight": 1.0}],
            "monitors": [],
            "training": {"steps": 4, "batchSize": 16},
            "optimizer": {"learningRate": 3e-3, "schedule": "Constant", "warmupSteps": 0, "betas": [0.9, 0.95]},
            "generation": {"maxPromptLength": 8, "maxResponseLength": 6, "truncation": {"mode": "Score"}},
            "ppo": {"epochs": 2, "miniBatches": 2, "kl": {"coefficient": 0.02, "controller": "Fixed"}},
            "checkpoints": {"everySteps": 2, "keep": 2, "gracePeriodSeconds": 60},
            "guards": [{"name": "finite", "patience": 1, "nonFinite": {}}],
            "timeouts": {"startupSeconds": 120, "progressSeconds": 300},
        }
        return merge(raw, own)

    @property
    def workspace(self) -> Path:
        """The plan's folder on the storage."""
        return self.storage / f"tiny-{self.plan.digest().removeprefix('sha256:')[:12]}"

    def result(self) -> Result:
        """The result that the run left."""
        return Result.model_validate_json((self.workspace / "result.json").read_bytes())

    def start(self, *, attempt: int = 1, micro: int = 4, minimum: int = 0, **options: Any) -> "Run":
        """Start `launch` for this world's plan; options go to `Run`."""
        plan_file = self.root / "plan.json"
        plan_file.write_text(self.plan.canonical())
        arguments = ["--plan", str(plan_file), "--workspace", str(self.workspace), "--attempt", str(attempt)]
        arguments += ["--micro-batch-size", str(micro), "--min-checkpoint-step", str(minimum)]
        settings = self.root / "settings.json"
        if settings.exists():
            arguments += ["--settings", str(settings)]
        self.runs.append(Run(self, arguments, attempt, **options))
        return self.runs[-1]


def inherited_environment() -> dict[str, str]:
    """The environment, with byte code kept: importing torch and transformers from source takes longer than training."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlhf-operator" / "pycache"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": str(cache), **kept}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Run:
    """One `launch` process, or one of several that stand for the pods of an attempt."""

    def __init__(
        self,
        world: World,
        arguments: list[str],
        attempt: int,
        *,
        index: int = 0,
        workers: int = 1,
        processes: int = 1,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.world = world
        self.termination = world.root / f"termination-{attempt}-{index}"
        self.log = world.root / f"log-{attempt}-{index}.txt"
        self.port = port or free_port()
        self.progress_port = free_port()
        self._output = open(self.log, "wb")  # noqa: SIM115 -- closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_trainer", "launch", *arguments],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={
                **inherited_environment(),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "DS_BUILD_OPS": "0",
                "RLHF_TERMINATION_LOG": str(self.termination),
                "RLHF_PROGRESS_PORT": str(self.progress_port),
                "RLHF_GRACE_SECONDS": "60",
                "JOB_COMPLETION_INDEX": str(index),
                "RLHF_WORKERS": str(workers),
                "RLHF_PROCS_PER_WORKER": str(processes),
                "RLHF_MASTER_ADDR": "127.0.0.1",
                "RLHF_MASTER_PORT": str(self.port),
                **(environment or {}),
            },
        )

    def wait(self, seconds: float = 240) -> int:
        """Wait for the end; returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds} s:\n{self.tail()}") from None
        finally:
            self._output.close()

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-6000:]

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The JSON lines it printed so far."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            start = line.find('{"time"')
            if start >= 0:
                try:
                    event = json.loads(line[start:])
                except json.JSONDecodeError:
                    continue
                if name is None or event["event"] == name:
                    found.append(event)
        return found

    def until(self, condition: Callable[["Run"], bool], seconds: float = 300) -> None:
        """Wait for a condition; fails when the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not condition(self):
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.tail()}"
            time.sleep(0.02)

    def until_step(self, step: int, seconds: float = 300) -> None:
        """Wait until a step is reported."""
        self.until(lambda run: any(event["step"] >= step for event in run.events("step")), seconds)

    def message(self) -> TerminationMessage:
        """The pod's last words."""
        return TerminationMessage.model_validate_json(self.termination.read_bytes())

    def ranks(self) -> list[int]:
        """The rank processes below the launcher."""
        return [pid for pid in children_of(self.process.pid) if "rlhf_trainer" in command_of(pid)]

    def kill(self) -> None:
        """End the launcher and everything below it, at once."""
        for pid in [*descendants_of(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(30)
        self._output.close()


def children_of(pid: int) -> list[int]:
    """Direct children of a process."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                text = (path / "stat").read_text()
            except OSError:
                continue
            if int(text[text.rindex(")") + 2 :].split()[1]) == pid:
                found.append(int(path.name))
    return sorted(found)


def descendants_of(pid: int) -> list[int]:
    """All processes below a process, the deepest first."""
    found: list[int] = []
    for child in children_of(pid):
        found += [*descendants_of(child), child]
    return found


def command_of(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""

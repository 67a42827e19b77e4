"""What a finished run is told with: figures before and after, the artifact's identity, and answers to read."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from demo.run import Outcome, Run

SEED = 5
SHOWN = 5
_WIDTH = 110


def number(value: object, digits: int = 3) -> str:
    """A figure, or a dash when there is none."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def figures(job: Mapping[str, Any], first_reward: float | None) -> list[str]:
    """The table: reward, each evaluation score, KL."""
    status = job["status"]
    progress = status.get("progress") or {}
    lines = [f"{'':<34}{'before':>9}{'after':>9}"]
    lines.append(f"{'reward (training, per response)':<34}{number(first_reward):>9}{number(progress.get('reward')):>9}")
    for entry in (status.get("evaluation") or {}).get("comparisons") or []:
        name = f"{entry.get('scorer')} (held-out prompts)"
        wins = f"   wins {number(entry.get('winRate'), 2)} against {entry.get('baseline')}"
        interval = f", 95 % [{number(entry.get('lower'), 2)}, {number(entry.get('upper'), 2)}]"
        means = f"{number(entry.get('baselineMean')):>9}{number(entry.get('mean')):>9}"
        lines.append(f"{name:<34}{means}{wins}{interval}")
    lines.append(f"{'KL to the base (nats per response)':<34}{'0':>9}{number(progress.get('kl')):>9}")
    return lines


def identity(job: Mapping[str, Any]) -> list[str]:
    """The artifact: digest in full, place, verdict."""
    artifact = job["status"].get("artifact") or {}
    evaluation = job["status"].get("evaluation") or {}
    verdict = f"{artifact.get('gate', '-')}" + (f" ({evaluation['message']})" if evaluation.get("message") else "")
    return [
        f"artifact  {artifact.get('digest', '-')}",
        f"lies at   {artifact.get('ref', '-')}",
        f"gate      {verdict}",
    ]


def model_folder(artifact: Path) -> Path:
    """The folder below the artifact that holds the model."""
    found = sorted(artifact.rglob("config.json"), key=lambda path: len(path.parts))
    if not found:
        raise FileNotFoundError(f"no config.json below {artifact}: the artifact holds no model")
    return found[0].parent


def answers(run: Run, outcome: Outcome) -> list[str]:
    """The same prompts to the base model and to the trained policy, sampled with the same seed."""
    # Here, because it brings torch and transformers, which figures and words do not need.
    from demo import base_model

    prompts = list(run.prompts[:SHOWN])
    before = base_model.answer(run.base, prompts, run.max_tokens, SEED)
    after = base_model.answer(model_folder(outcome.artifact), prompts, run.max_tokens, SEED)
    lines = []
    for prompt, old, new in zip(prompts, before, after, strict=True):
        lines += ["", *shorten(prompt), f"  before: {_cut(old)}", f"  after:  {_cut(new)}"]
    return lines


def shorten(prompt: str) -> Sequence[str]:
    """The prompt's lines that say something, at most three."""
    lines = [line for line in prompt.splitlines() if line.strip() and line.strip() != "Agent:"]
    return [_cut(line) for line in lines[:3]]


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _WIDTH else flat[: _WIDTH - 1] + "…"


def show(run: Run, outcome: Outcome, stream: TextIO | None = None) -> None:
    """Print everything to stdout."""
    lines = ["", *figures(outcome.job, outcome.first_reward), *answers(run, outcome), "", *identity(outcome.job)]
    lines.append(f"          copied to {outcome.artifact}")
    (stream or sys.stdout).write("\n".join(lines) + "\n")

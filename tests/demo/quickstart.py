"""The quickstart's run: the closed world's base model and the manifests of examples/quickstart."""

from __future__ import annotations

from pathlib import Path

from demo import world
from demo.basecache import cached_base
from demo.generate import HELD_OUT
from demo.recipe import Pair, Recipe
from demo.run import Run
from demo.voice import Voice

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
ROUNDS = 6
SKILL = 0.5
SEED = 5


def base_pairs() -> list[Pair]:
    """What the base model learns from: mediocre answers to the messages that are not held out."""
    train, _ = world.split(HELD_OUT)
    return world.demonstrations(train, ROUNDS, SKILL, SEED)


def prepare(build: Path, voice: Voice) -> Run:
    """Make the base model and say what will be trained."""
    voice.step("a small base model, made on the spot")
    base = cached_base(base_pairs(), build, Recipe(), voice)
    _, held_out = world.split(HELD_OUT)
    return Run(
        job="quickstart",
        claim="quickstart",
        artifact="artifact",
        manifests=sorted(EXAMPLE.glob("*.yaml")),
        base=base,
        reward="2 x overlap with a good answer + 0.5 x a courteous opening + 0.5 x the right length; "
        "gold, the rule that judges, is only watched",
        prompts=[case.prompt for case in held_out],
        max_tokens=48,
    )

"""Keeps base models that were made once, by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from demo.recipe import Pair, Recipe
from demo.voice import Voice
from demo.watch import Line

_MADE = "made.json"
_MAKER = Path(__file__).with_name("base_model.py")


def key(pairs: Sequence[Pair], recipe: Recipe) -> str:
    """Twelve hex digits that change with the texts, the sizes and the code that makes the model."""
    digest = hashlib.sha256(_MAKER.read_bytes())
    digest.update(json.dumps([list(pairs), asdict(recipe)]).encode())
    return digest.hexdigest()[:12]


def cached_base(pairs: Sequence[Pair], build: Path, recipe: Recipe, voice: Voice) -> Path:
    """Folder of the base model for these texts; made now unless it is there already."""
    folder = build / f"base-{key(pairs, recipe)}"
    if (folder / _MADE).is_file():
        facts = json.loads((folder / _MADE).read_text(encoding="utf-8"))
        voice.say(f"made before: {facts['parameters']:,} parameters")
        return folder
    # Here, because it brings torch and transformers: seconds that a model made before need not cost.
    from demo import base_model

    line = Line()

    def report(step: int, steps: int, loss: float) -> None:
        line.show(f"teaching it to speak: step {step}/{steps}, loss {loss:.3f} nats per token", last=step == steps)

    unfinished = folder.with_name(folder.name + f".tmp{os.getpid()}")
    facts = base_model.make(pairs, unfinished, recipe, report)
    (unfinished / _MADE).write_text(json.dumps(facts), encoding="utf-8")
    unfinished.rename(folder)
    voice.say(f"{facts['parameters']:,} parameters, vocabulary {facts['vocabulary']}, {facts['seconds']:.0f} s")
    return folder

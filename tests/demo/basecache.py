"""Keeps base models that were made once, by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from demo import base_model
from demo.voice import Voice
from demo.watch import Line

_MADE = "made.json"


def key(pairs: Sequence[base_model.Pair], recipe: base_model.Recipe) -> str:
    """Twelve hex digits that change with the texts, the sizes and the code that makes the model."""
    digest = hashlib.sha256(Path(base_model.__file__).read_bytes())
    digest.update(json.dumps([list(pairs), asdict(recipe)]).encode())
    return digest.hexdigest()[:12]


def cached_base(pairs: Sequence[base_model.Pair], build: Path, recipe: base_model.Recipe, voice: Voice) -> Path:
    """Folder of the base model for these texts; made now unless it is there already."""
    folder = build / f"base-{key(pairs, recipe)}"
    if (folder / _MADE).is_file():
        facts = json.loads((folder / _MADE).read_text(encoding="utf-8"))
        voice.say(f"made before: {facts['parameters']:,} parameters")
        return folder
    line = Line()

    def report(step: int, steps: int, loss: float) -> None:
        line.show(f"teaching it to speak: step {step}/{steps}, loss {loss:.3f} nats per token", last=step == steps)

    unfinished = folder.with_name(folder.name + f".tmp{os.getpid()}")
    facts = base_model.make(pairs, unfinished, recipe, report)
    (unfinished / _MADE).write_text(json.dumps(facts), encoding="utf-8")
    unfinished.rename(folder)
    voice.say(f"{facts['parameters']:,} parameters, vocabulary {facts['vocabulary']}, {facts['seconds']:.0f} s")
    return folder

"""What a small base model is made from: texts and sizes. Importing it costs nothing; base_model.py brings torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Pair = tuple[str, str]
"""A prompt, and the text that should follow it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes of the model and of its fine-tuning; the defaults give about one million parameters."""

    vocabulary: int = 512
    hidden: int = 128
    layers: int = 4
    intermediate: int = 384
    positions: int = 512
    max_tokens: int = 96
    """Longest prompt and answer together; what is longer is cut at its end."""
    batch: int = 16
    steps: int = 320
    learning_rate: float = 4e-3
    seed: int = 3


Report = Callable[[int, int, float], None]
"""Called with step, steps and the loss of the step in nats per token."""

"""Our names into TRL's: hyperparameters on the way in, figures on the way out. The tables are beside each algorithm."""

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_operator.api.base import Model

FIGURES = {"loss": "loss", "grad_norm": "gradNorm", "learning_rate": "learningRate"}
"""Figures that every trainer logs."""

Words = Mapping[str, Callable[[Any], Any]]


def settings(block: Model, names: Mapping[str, str], words: Words | None = None) -> dict[str, Any]:
    """Keyword arguments of a TRL config from an algorithm's block; words: how a value is said there, by our name.

    Raises KeyError for a field that the table lacks: what is set is never left out.
    """
    words = words or {}
    values = {name: getattr(block, name) for name in type(block).model_fields}
    return {names[name]: words[name](value) if name in words else value for name, value in values.items()}


def figures(logs: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """A step's figures under our names; what the table lacks is TRL's own bookkeeping."""
    return {ours: float(logs[theirs]) for theirs, ours in {**FIGURES, **names}.items() if theirs in logs}

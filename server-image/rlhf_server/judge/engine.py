"""What the judge asks for scores: the interface, and how it fails. The engines are in vllm.py and graders.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .schema import ScoreItem


@dataclass(frozen=True, slots=True)
class NoScore:
    """Why one item has no score; holds no text."""

    reason: str


Scored = dict[str, float] | NoScore
"""Calibrated, finite score by dimension."""


class EngineAway(Exception):
    """The engine can't be reached, failed, or gave what is no score. `reason` is for machines."""

    def __init__(self, message: str, reason: str = "EngineAway") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class Engine(Protocol):
    """Scores items. Raises EngineAway rather than give a score that may be wrong."""

    async def check(self) -> None:
        """Return when it can be asked. Raises EngineAway."""
        ...

    async def score(self, items: Sequence[ScoreItem]) -> list[Scored]:
        """One result per item, in order."""
        ...

    async def close(self) -> None:
        """Free what is held."""
        ...

"""The evaluation block of an RLHFJob: what is measured before and after, and what must hold to publish."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from .base import Model, Rule
from .data import Dataset
from .meta import map_list
from .scalars import Column, EntryName, Rate


class Baseline(StrEnum):
    """What the trained policy is compared with."""

    BASE = "Base"
    WARM_START = "WarmStart"
    PARENT = "Parent"


class Suite(Model):
    """Tasks on which the trained policy must not become worse; training rows that are among them are dropped."""

    name: EntryName
    """Name of the suite, unique in the list."""
    dataset: Dataset
    """Its prompts."""
    scorer: EntryName
    """Name of the scorer that judges the answers."""
    max_drop: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """How far the mean score may fall below the base model's."""


class Slices(Model):
    """Parts of the evaluation data that must not become worse."""

    columns: Annotated[list[Column], Field(min_length=1, max_length=8)]
    """Columns of the evaluation data set to slice by, as its rows name them."""
    min_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 30
    """Smaller slices are reported and gate nothing."""
    max_drop: Annotated[float, Field(ge=0, le=1_000_000)] = 0.05
    """How far a slice's mean score may fall below the base model's, for every scorer in scorers."""


class Evaluation(Model):
    """What is measured before the first step and after the last, and the gate on it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.minWinRate) || has(self.minImprovement) || has(self.slices)) || "
            "(has(self.scorers) && self.scorers.size() > 0)",
            "minWinRate, minImprovement and slices are judged by scorers: name at least one in scorers",
        ),
        Rule(
            "!has(self.minImprovement) || self.baselines.exists(b, b == 'WarmStart')",
            "minImprovement is measured over WarmStart: add WarmStart to baselines",
        ),
    )

    dataset: Dataset
    """Prompts to evaluate on, apart from the training data."""
    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Also evaluate every so many steps; before the first and after the last step in any case."""
    baselines: Annotated[
        list[Baseline], Field(min_length=1, max_length=3, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = [Baseline.BASE]
    """What to compare with: Base, WarmStart, Parent (the parentArtifact)."""
    scorers: Annotated[list[EntryName], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"})] = []
    """Names of the scorers that judge. If all of them were optimised the gate warns (GateUsesTrainingReward)."""
    allow_training_scorer: bool = False
    """Do not warn when the gate's scorers were all optimised."""
    min_win_rate: Rate | None = None
    """Lowest win rate, per scorer and baseline: the lower bound of the 95 % interval, ties one half, both orders,
    bootstrap by prompt."""
    min_improvement: Annotated[float, Field(ge=-1_000_000, le=1_000_000)] | None = None
    """Lowest gain in mean score over WarmStart: whether RL was worth it over SFT on the same data. Its 95 % interval is
    shown beside it."""
    suites: Annotated[list[Suite], map_list("name", 16)] = []
    """Fixed sets of tasks that must not become worse."""
    slices: Slices | None = None
    """Parts of the evaluation data that must not become worse."""

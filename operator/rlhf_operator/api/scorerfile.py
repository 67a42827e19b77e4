"""scorer.json and probes.jsonl of a RewardModel's version: how its files become scores, and how to tell that they do.

Written by the trainer, read by every judge; what the model itself reads is in rlhf-input.json beside them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rlhf_operator.api.base import Model
from rlhf_operator.api.plan import TOTAL
from rlhf_operator.api.rewardplan import PlanWeightedGrader

SCORER_FILE = "scorer.json"
PROBES_FILE = "probes.jsonl"
REPORT_FILE = "report.json"
REPORT_PAGE = "report.html"

PROBE_TOLERANCE = 1.0e-3
"""Largest difference between a score now and the one at evaluation time, in calibrated units."""

__all__ = [
    "PROBES_FILE",
    "PROBE_TOLERANCE",
    "REPORT_FILE",
    "REPORT_PAGE",
    "SCORER_FILE",
    "TOTAL",
    "Probe",
    "ScorerFile",
    "ScorerKind",
]


class ScorerKind(StrEnum):
    """What scores."""

    MODEL = "Model"
    GRADERS = "Graders"


class ScorerFile(Model):
    """scorer.json."""

    kind: ScorerKind
    dimensions: Annotated[list[str], Field(min_length=1, max_length=16)]
    """In the order of the model's heads."""
    temperatures: list[float] = []
    """Model: a head's logit divided by its temperature is the score. One per dimension."""
    graders: list[PlanWeightedGrader] = []
    """Graders: a dimension's score is the weighted mean of its graders."""
    probe_tolerance: float = PROBE_TOLERANCE


class Probe(Model):
    """One line of probes.jsonl: a text and the calibrated scores it had when the version was evaluated."""

    prompt: str
    response: str
    scores: dict[str, float]
    """By dimension."""

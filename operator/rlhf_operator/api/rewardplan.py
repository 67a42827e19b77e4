"""The resolved plan of a RewardModel's version. The operator writes it (rewardmodel/plan.py), the trainer reads it.

The gate's limits are not in it but in `LiveSettings`: another limit judges the same training again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf_operator.api.algorithms import Lora, SupervisedOptimizer
from rlhf_operator.api.base import Model
from rlhf_operator.api.plan import PlanDataset, PlanScorer, PlanSource, RunPlan
from rlhf_operator.api.rewardmodel import Aggregation

REWARD_MODEL = "RewardModel"
"""`kind` of a RewardPlan; a TrainingPlan has none."""


class PlanRewardTraining(Model):
    """Training from judgements."""

    base_model: PlanSource
    dataset: PlanDataset
    aggregation: Aggregation
    epochs: int
    batch_size: int
    """Pairs per step, over all ranks."""
    seed: int
    optimizer: SupervisedOptimizer
    max_length: int
    lora: Lora | None = None


class PlanWeightedGrader(Model):
    """A grader with its part in the score of a dimension."""

    dimension: str
    weight: float
    scorer: PlanScorer


class PlanRewardEvaluation(Model):
    """What is measured. Exactly one of held_out_fraction, folds when the training data is split."""

    dataset: PlanDataset | None = None
    """Judged rows of their own; None: a part of the training data is held out, by prompt."""
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    folds: int | None = None
    must_prefer: PlanSource | None = None
    slice_columns: list[str] = []


class RewardPlan(RunPlan):
    """One version of a RewardModel, resolved: exactly one of train, model, graders."""

    kind: Literal["RewardModel"] = "RewardModel"
    dimensions: list[str]
    train: PlanRewardTraining | None = None
    model: PlanSource | None = None
    graders: list[PlanWeightedGrader] = []
    evaluation: PlanRewardEvaluation = PlanRewardEvaluation()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum((self.train is not None, self.model is not None, bool(self.graders))) != 1:
            raise ValueError("give exactly one of train, model, graders")
        return self

    def inputs(self) -> Iterator[tuple[str, PlanSource]]:
        """Yield (field of the spec, input) of every model and data set."""
        if self.train is not None:
            yield "source.train.baseModel", self.train.base_model
            yield "source.train.dataset", self.train.dataset
        if self.model is not None:
            yield "source.model", self.model
        if self.evaluation.dataset is not None:
            yield "evaluation.dataset", self.evaluation.dataset
        if self.evaluation.must_prefer is not None:
            yield "evaluation.mustPrefer", self.evaluation.must_prefer

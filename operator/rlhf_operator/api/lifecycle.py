"""How a run goes on and how long it may be silent: what every kind that trains lets its user set."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from .base import Model, Rule
from .scalars import Between, DecimalText, Duration


class Checkpoints(Model):
    """When a run is saved."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 25
    """Steps between two checkpoints."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many complete checkpoints are kept."""
    grace_period: Annotated[Duration, Between("30s", "24h")] = Duration("5m")
    """Time that pods have for a last checkpoint when they are stopped."""


class Timeouts(Model):
    """How long silence is tolerated."""

    startup: Annotated[Duration, Between("1s", "168h")] = Duration("30m")
    """Time in which all workers must have joined."""
    progress: Annotated[Duration, Between("1s", "168h")] = Duration("20m")
    """Longest time without a new step."""


class Budget(Model):
    """What the job may use, over all attempts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maxCost) || has(self.pricePerGPUHour)",
            "maxCost is counted by price: set pricePerGPUHour",
        ),
    )

    max_gpu_hours: Annotated[float, Field(gt=0, le=1.0e9)] | None = None
    """Most GPU hours."""
    price_per_gpu_hour: DecimalText | None = None
    """Price of one GPU hour, as a decimal in quotes."""
    max_cost: DecimalText | None = None
    """Highest cost, in the currency of the price."""

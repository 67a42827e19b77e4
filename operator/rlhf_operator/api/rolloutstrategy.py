"""How a PolicyRollout moves traffic: steps, holds, capacity. Measuring is in rolloutanalysis."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from .base import Model, Rule
from .scalars import Between, Duration, EntryName


class Mirror(Model):
    """A copy of live requests for the candidate; its answers go to nobody."""

    percent: Annotated[int, Field(ge=1, le=100)]
    """Share of the requests."""
    max_concurrent: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Copies at a time per pod; more are shed, so that live requests never wait for them."""


class HeaderMatchType(StrEnum):
    """How a header is compared."""

    EXACT = "Exact"
    REGULAR_EXPRESSION = "RegularExpression"


class HeaderMatch(Model):
    """A header that a request must have."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]+$", max_length=256)]
    """Name of the header."""
    value: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """Its value."""
    type: HeaderMatchType = HeaderMatchType.EXACT
    """Exact or RegularExpression."""


class StepMatch(Model):
    """Requests that go to the candidate whatever the weight."""

    headers: Annotated[list[HeaderMatch], Field(min_length=1, max_length=16)]
    """Headers that must all match."""


class Hold(Model):
    """How long a step lasts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.maximum) || duration(self.minimum) <= duration(self.maximum)",
            "maximum must not be shorter than minimum",
        ),
    )

    minimum: Annotated[Duration, Between("0s", "8760h")] = Duration("0s")
    """Shortest time."""
    samples: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Fewest samples of the candidate."""
    maximum: Annotated[Duration, Between("1s", "8760h")] | None = None
    """Time after which an undecided step pauses and asks; never when unset."""


class Approval(Model):
    """A person must approve before the rollout goes on."""


class Step(Model):
    """One stage on the way to 100 %."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.weight) || has(self.match) || has(self.mirror) || has(self.approval)",
            "a step does something: set weight, match, mirror or approval",
        ),
        Rule(
            "!has(self.approval) || !(has(self.weight) || has(self.match) || has(self.mirror) || has(self.hold))",
            "an approval is a step of its own: move weight, match, mirror and hold to another step",
        ),
        Rule(
            "!(has(self.match) && has(self.weight))",
            "match sends chosen requests, weight a share of all: use one step for each",
        ),
        Rule(
            "!(self.name in ['starting', 'bake', 'rollback', 'promote'])",
            "starting, bake, rollback and promote are stages of every rollout: give the step another name",
            field_path=".name",
        ),
    )

    name: EntryName
    """Name of the step, unique in the list."""
    weight: Annotated[int, Field(ge=0, le=100)] | None = None
    """Percentage of live traffic for the candidate; it never goes down from step to step."""
    mirror: Mirror | None = None
    """Copy live requests to the candidate."""
    match: StepMatch | None = None
    """Send only matching requests to the candidate."""
    approval: Approval | None = None
    """Wait for a person."""
    hold: Hold | None = None
    """How long the step lasts; without it, until the analysis lets it go on."""


class Capacity(StrEnum):
    """How many pods a candidate gets."""

    FULL = "Full"
    PROPORTIONAL = "Proportional"
    REPLACE = "Replace"


class Strategy(Model):
    """How traffic moves to a new revision, and back."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.steps) || self.steps.all(s, self.steps.exists_one(t, t.name == s.name))",
            "every step needs a name of its own: rename one",
        ),
        Rule(
            "!has(self.steps) || self.steps.filter(s, has(s.weight)).map(s, s.weight).isSorted()",
            "weights never go down from step to step: put the steps in rising order",
            field_path=".steps",
        ),
    )

    capacity: Capacity = Capacity.FULL
    """Full: as many pods as stable before the first weight; Proportional: as many as the weight needs; Replace: takes
    them from stable, for clusters without spare GPUs."""
    bake: Annotated[Duration, Between("0s", "8760h")] = Duration("1h")
    """Time at 100 % in which the former revision stays warm and analysis still rolls back."""
    rollback_window: Annotated[int, Field(ge=0, le=100)] = 2
    """How many of the last promoted revisions can be gone back to without steps."""
    scale_down_delay: Annotated[Duration, Between("0s", "168h")] = Duration("10m")
    """Time before the pods of a revision without traffic stop; at least serving.drainTimeout."""
    progress_deadline: Annotated[Duration, Between("1s", "168h")] = Duration("45m")
    """Time in which a candidate's pods must become ready."""
    steps: Annotated[list[Step], Field(max_length=20, json_schema_extra={"x-kubernetes-list-type": "atomic"})] = []
    """Stages on the way to 100 %; without any, straight to it once ready."""

"""The status of a PolicyRollout. Tolerant throughout: lists are cut in code, never refused by the CRD."""

from __future__ import annotations

from typing import Annotated

from .base import StatusModel
from .meta import Conditions, EffectiveStatus, map_list
from .scalars import Time


class Variant(StatusModel):
    """Stable or Candidate, as it is now."""

    name: str
    """Stable or Candidate."""
    revision: str | None = None
    """Its revision."""
    digest: str | None = None
    """Digest of its artifact."""
    ref: str | None = None
    """Where the artifact lies."""
    weight: int | None = None
    """Percentage of live traffic."""
    mirror_percent: int | None = None
    """Percentage of live requests that is copied to it."""
    ready: int | None = None
    """Pods that are ready."""
    replicas: int | None = None
    """Pods that are wanted."""
    since: Time | None = None
    """When this revision became it."""


class StepStatus(StatusModel):
    """The step that is under way."""

    index: int | None = None
    """Its place in the list, from 0."""
    name: str | None = None
    """Its name."""
    started_at: Time | None = None
    """When it began."""
    message: str | None = None
    """What it waits for."""
    samples: int | None = None
    """Requests that the candidate has answered in it."""


class MetricStatus(StatusModel):
    """The last measurement of one metric."""

    metric: str = ""
    """Name of the metric."""
    outcome: str | None = None
    """Successful, Failed, Inconclusive, Error or NotApplicable."""
    value: float | None = None
    """The figure."""
    interval: list[float] = []
    """Its confidence interval: lower and upper bound."""
    samples: int | None = None
    """How many samples it rests on."""
    at: Time | None = None
    """When it was measured."""
    reason: str | None = None
    """Why the outcome is so."""
    message: str | None = None
    """The same in words."""
    step: str | None = None
    """The step it was measured in; the next three count from its start."""
    failed: int | None = None
    """Measurements that failed."""
    inconclusive: int | None = None
    """Measurements that were inconclusive."""
    errors: int | None = None
    """Errors in a row up to now."""


class ScorerStatus(StatusModel):
    """A RewardModel that judges this rollout's answers."""

    metric: str = ""
    """Name of the metric that asks it."""
    name: str = ""
    """Name of the RewardModel."""
    version: str | None = None
    """The version in use, from the start of a rollout to its end."""
    since: Time | None = None
    """When it came into use."""


class CommandStatus(StatusModel):
    """The last command that was carried out."""

    id: str = ""
    """Its id."""
    verb: str | None = None
    """promote, approve, abort, retry, pause, resume or rollback."""
    by: str | None = None
    """Who gave it."""
    at: Time | None = None
    """When it was carried out."""


class RejectedRevision(StatusModel):
    """A revision that is not tried again."""

    revision: str = ""
    """The revision."""
    reason: str | None = None
    """Why it was rejected."""
    message: str | None = None
    """The same for people, with figures."""
    at: Time | None = None
    """When."""


class HistoryEntry(StatusModel):
    """One rollout that ended."""

    revision: str = ""
    """The revision."""
    outcome: str | None = None
    """How it ended: Promoted, RolledBack, Aborted, Superseded or Infrastructure."""
    reason: str | None = None
    """Why."""
    message: str | None = None
    """The same for people, with figures."""
    by: str | None = None
    """Who decided, when a person did."""
    metrics: list[MetricStatus] = []
    """The last measurements."""
    from_: Time | None = None
    """Start."""
    to: Time | None = None
    """End."""


class PolicyRolloutStatus(StatusModel):
    """What is so, as the operator saw it."""

    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""
    phase: str | None = None
    """Summary for people, derived from the conditions; no code reads it."""
    message: str | None = None
    """One line for people: what happens now, or what to do."""
    conditions: Conditions = []
    """The state for machines: Ready, Reconciling, Stalled, RouteAccepted, CandidateAvailable, AnalysisHealthy, Paused,
    Promoted, RolledBack."""
    effective: EffectiveStatus | None = None
    """What is in force, by name."""
    variants: Annotated[list[Variant], map_list("name")] = []
    """Stable and Candidate."""
    step: StepStatus | None = None
    """The step that is under way."""
    analysis: list[MetricStatus] = []
    """The last round of measurements."""
    scorers: Annotated[list[ScorerStatus], map_list("metric")] = []
    """RewardModels in use."""
    last_command: CommandStatus | None = None
    """The last command that was carried out."""
    rejected: list[RejectedRevision] = []
    """Revisions that are not tried again."""
    history: list[HistoryEntry] = []
    """Rollouts that ended, newest first."""

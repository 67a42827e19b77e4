"""PolicyRollout: one live policy behind one route. Its analysis and its status have modules of their own."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .base import Model, Rule
from .data import ConfigMapSource, DataRef, PVCSource, S3Source
from .meta import Kind, PrinterColumn
from .pods import Autoscaling, AutoscalingMetric, LabelValue, PodFields
from .rolloutanalysis import PAIRED, Analysis
from .rolloutstatus import PolicyRolloutStatus
from .rolloutstrategy import Capacity, Hold, Mirror, Step, StepMatch, Strategy
from .scalars import Between, Digest, Duration, EntryName, ObjectName, OpenObject, Rate, ShortText

__all__ = [
    "Autoscaling",
    "AutoscalingMetric",
    "Capacity",
    "FailureAction",
    "Hold",
    "JobRef",
    "JobSelector",
    "JudgeSettings",
    "Logging",
    "Mirror",
    "ModelSource",
    "OnFailure",
    "ParentRef",
    "PolicyRollout",
    "PolicyRolloutSpec",
    "PolicyRolloutStatus",
    "Redaction",
    "Route",
    "ServingSettings",
    "Sink",
    "Step",
    "StepMatch",
    "Strategy",
    "TextSource",
    "Trajectories",
]


class JobRef(Model):
    """An RLHFJob of the same namespace."""

    name: ObjectName
    """Name of the RLHFJob."""


class JobSelector(Model):
    """RLHFJobs by label."""

    match_labels: Annotated[dict[str, LabelValue], Field(min_length=1, max_length=16)]
    """Labels that a job must have. The newest published one by completion time is taken; those in between are
    skipped."""


class ArtifactRef(DataRef):
    """An artifact by its place and digest."""

    digest: Digest
    """Its digest: what is served is held against it."""


class ModelSource(Model):
    """What is served."""

    one_of: ClassVar[tuple[str, ...]] = ("rlhf_job_ref", "rlhf_job_selector", "artifact")

    rlhf_job_ref: JobRef | None = None
    """The artifact of one RLHFJob."""
    rlhf_job_selector: JobSelector | None = None
    """The artifact of the newest RLHFJob with these labels."""
    artifact: ArtifactRef | None = None
    """An artifact by its place and digest."""
    allow_ungated: bool = False
    """Also serve artifacts whose gate is NotEvaluated. One that Failed is never served."""


class TextSource(Model):
    """A text in a ConfigMap."""

    config_map: ConfigMapSource
    """The ConfigMap and its key."""


class ModelCache(Model):
    """A volume on which model files are kept between pods."""

    pvc: PVCSource
    """The claim and a folder on it."""


_OURS = ("--host", "--port", "--model", "--middleware", "--chat-template", "--shutdown-timeout", "--served-model-name")


class ServingSettings(PodFields):
    """The pods that serve a revision. A change makes a new revision."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.adapters) || self.adapters.size() == 0",
            "adapters is reserved for a later version: leave it empty",
        ),
        Rule(
            "!has(self.args) || !self.args.exists(a, ["
            + ", ".join(f"'{flag}'" for flag in _OURS)
            + "].exists(f, a == f || a.startsWith(f + '=')))",
            f"the operator sets {', '.join(_OURS)} itself: remove them from args",
        ),
    )

    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of pods, unless autoscaling decides."""
    args: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=512)]], Field(max_length=64)] = []
    """More arguments for vLLM."""
    chat_template: TextSource | None = None
    """Chat template (Jinja); part of the revision, because it changes behaviour."""
    system_prompt: TextSource | None = None
    """System prompt; part of the revision, because it changes behaviour."""
    adapters: Annotated[list[EntryName], Field(max_length=64)] = []
    """Reserved: LoRA adapters by name."""
    autoscaling: Autoscaling | None = None
    """Let load decide the number of pods."""
    cache: ModelCache | None = None
    """A volume on which model files are kept between pods."""
    drain_timeout: Annotated[Duration, Between("1s", "24h")] = Duration("10m")
    """Longest time that a running answer may take to finish when a pod stops."""
    queue_name: ObjectName | None = None
    """Kueue LocalQueue of the pods."""


class ParentRef(Model):
    """A Gateway, as in Gateway API."""

    group: ShortText | None = None
    """API group (default gateway.networking.k8s.io)."""
    kind: ShortText | None = None
    """Kind (default Gateway)."""
    name: ObjectName
    """Name of the Gateway."""
    namespace: ObjectName | None = None
    """Its namespace; the rollout's own when unset."""
    section_name: ObjectName | None = None
    """Its listener; all when unset."""
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Its port; all when unset."""


class RouteTimeouts(Model):
    """Time limits of the route; always written, because a gateway's own default cuts long answers."""

    request: Annotated[Duration, Between("0s", "24h")] = Duration("0s")
    """Longest time for a request; 0s has no limit."""
    backend_request: Annotated[Duration, Between("0s", "24h")] = Duration("0s")
    """Longest time for one try at a pod; 0s has no limit."""


Hostname = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253
    ),
]
RoutePath = Annotated[str, StringConstraints(pattern=r"^/[^\s]*$", max_length=512)]


class Route(Model):
    """The HTTPRoute that carries the traffic."""

    parent_refs: Annotated[list[ParentRef], Field(min_length=1, max_length=16)]
    """Gateways."""
    hostnames: Annotated[list[Hostname], Field(max_length=16)] = []
    """Host names; those of the Gateway when empty."""
    matches: Annotated[list[OpenObject], Field(max_length=8)] = []
    """Further matches, as in Gateway API's HTTPRoute, passed through."""
    paths: Annotated[
        list[RoutePath], Field(min_length=1, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = ["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    """Paths that carry weights and mirror."""
    timeouts: RouteTimeouts = RouteTimeouts()
    """Time limits."""


class JudgeSettings(PodFields):
    """The pods that score live answers."""

    sample_rate: Rate = 0.1
    """Share of the requests that is scored, alike in every pod."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of pods."""


class Redaction(StrEnum):
    """How personal data is removed before anything is written."""

    STRICT = "Strict"
    STANDARD = "Standard"
    OFF = "Off"


class Sink(Model):
    """Where trajectories go."""

    one_of: ClassVar[tuple[str, ...]] = ("pvc", "s3")

    pvc: PVCSource | None = None
    """A folder on a PersistentVolumeClaim."""
    s3: S3Source | None = None
    """A prefix in an object store."""


class Trajectories(Model):
    """The record of requests and answers, for the next round of training."""

    sample_rate: Rate = 1.0
    """Share of the requests that is recorded."""
    redaction: Redaction = Redaction.STRICT
    """Strict, Standard or Off."""
    retention: Annotated[Duration, Between("1h", "87600h")] = Duration("2160h")
    """How long a record may be kept; it says so itself, and serving pods delete files of which every record is over.
    A change holds for what is recorded from then on."""
    sink: Sink
    """Where they go."""


class Logging(Model):
    """What is recorded of live traffic."""

    trajectories: Trajectories | None = None
    """The record of requests and answers; none when unset."""


class FailureAction(StrEnum):
    """What happens when the analysis fails."""

    ROLLBACK = "Rollback"
    PAUSE = "Pause"


class OnFailure(Model):
    """What happens when the analysis fails."""

    action: FailureAction = FailureAction.ROLLBACK
    """Rollback or Pause."""
    cut_streams: bool = False
    """End running answers of the candidate at once instead of letting them finish."""


class PolicyRolloutSpec(Model):
    """What is wanted. A change of model or serving makes a new revision."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "duration(self.strategy.scaleDownDelay) >= duration(self.serving.drainTimeout)",
            "strategy.scaleDownDelay must be at least serving.drainTimeout: else running answers are cut",
        ),
        Rule(
            f"!has(self.analysis) || !self.analysis.metrics.exists(m, {PAIRED}) || "
            "(has(self.strategy.steps) && self.strategy.steps.exists(s, has(s.mirror)))",
            "a paired metric needs mirrored requests: add mirror to a step, or set the metric's mode to Unpaired",
        ),
        Rule(
            "!has(self.strategy.steps) || !self.strategy.steps.exists(s, has(s.hold) && has(s.hold.samples)) || "
            "has(self.analysis)",
            "hold.samples is counted by the analysis: add analysis, or hold for a time",
        ),
    )

    model: ModelSource
    """What is served."""
    serving: ServingSettings = ServingSettings()
    """The pods that serve it."""
    route: Route
    """The route that carries the traffic."""
    strategy: Strategy = Strategy()
    """How traffic moves to a new revision, and back."""
    analysis: Analysis | None = None
    """What is measured on the way."""
    judge: JudgeSettings = JudgeSettings()
    """The pods that score live answers."""
    logging: Logging | None = None
    """What is recorded of live traffic."""
    on_failure: OnFailure = OnFailure()
    """What happens when the analysis fails."""
    revision_history_limit: Annotated[int, Field(ge=1, le=100)] = 5
    """Former revisions that are kept."""


class PolicyRollout(Kind):
    """One live policy behind one route: shadow, canary, promotion, and the way back."""

    plural: ClassVar[str] = "policyrollouts"
    short_name: ClassVar[str] = "pr"
    printer_columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn("Phase", "string", ".status.phase", "Summary of the conditions"),
        PrinterColumn("Step", "string", ".status.step.name", "Step that is under way"),
        PrinterColumn(
            "Weight", "integer", ".status.variants[?(@.name=='Candidate')].weight", "Candidate's percentage of traffic"
        ),
        PrinterColumn("Stable", "string", ".status.variants[?(@.name=='Stable')].revision", "Stable revision"),
        PrinterColumn("Candidate", "string", ".status.variants[?(@.name=='Candidate')].revision", "Candidate revision"),
        PrinterColumn(
            "Healthy", "string", ".status.conditions[?(@.type=='AnalysisHealthy')].status", "Verdict of the analysis", 1
        ),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since creation"),
        PrinterColumn("Message", "string", ".status.message", "What happens now, or what to do", 1),
    )

    kind: Literal["PolicyRollout"] = "PolicyRollout"
    spec: PolicyRolloutSpec
    """What is wanted."""
    status: PolicyRolloutStatus = PolicyRolloutStatus()
    """What is so."""

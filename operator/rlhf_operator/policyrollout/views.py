"""What one reconcile knows of a PolicyRollout: artifact, revisions, pods, route, measurements. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rlhf_operator.api.policyrollout import PolicyRolloutSpec, PolicyRolloutStatus
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import Owner

BAKE = "bake"
"""Name of the step behind the last: 100 % for the candidate, with the former revision still warm."""
STARTING = "starting"
"""Name of the step before the first: the candidate's pods come up and have no traffic."""
ROLLBACK = "rollback"
"""Name of what a command to go back makes of a former revision: it takes over at once when its pods are ready."""
PROMOTE = "promote"
"""Name of what a command to promote makes of a candidate: it takes over at once when its pods carry everything."""


@dataclass(frozen=True, slots=True)
class Source:
    """The artifact that is wanted, resolved: everything a revision needs to know of it, for the job may go."""

    digest: str
    ref: str
    claim: str
    folder: str
    job: str = ""
    """The RLHFJob it came from; empty for one that the spec names itself."""
    origin: str = ""
    """What in the spec it was resolved from: job/<name>, selector/<labels> or artifact."""
    gate: str = ""
    """The job's verdict; empty for one that the spec names itself."""
    completed_at: datetime | None = None
    """When its job became complete."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the spec asks for: a revision, or why there is none to go to."""

    revision: str | None = None
    source: Source | None = None
    reason: str = ""
    """Of common.reasons; empty with a revision."""
    message: str = ""
    rendered: Manifest | None = None
    """The ControllerRevision to be created for it; None when it is on record."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision on record (a ControllerRevision): what was rendered for it once, applied as it is for ever."""

    name: str
    """Ten hex digits: the identity in names, labels, headers, metrics and annotations."""
    digest: str
    ref: str
    number: int
    """Order of creation."""
    uid: str
    objects: tuple[Manifest, ...]
    """ConfigMap of the texts, Deployment (without replicas), Services, budget: as they are applied."""
    drain_seconds: float = 600.0
    inputs: str = ""
    """Name of what it was made of; the operator's default image is not part of it."""
    image: str = ""
    source: Source | None = None


class Trouble(StrEnum):
    """Why pods are not ready."""

    NONE = ""
    STARTING = "Starting"
    INFRASTRUCTURE = "Infrastructure"
    """Unschedulable, image pull, storage, quota, a node that went: not the model's doing."""
    CRASHING = "Crashing"
    """Our container ended again and again, or was killed for memory."""
    DIGEST_MISMATCH = "DigestMismatch"
    """The files are not those that the digest names."""
    NOT_SERVABLE = "NotServable"
    """They are, and no server can serve them: a LoRA adapter without its model."""


BAD_REVISION = frozenset({Trouble.CRASHING, Trouble.DIGEST_MISMATCH, Trouble.NOT_SERVABLE})
"""What waiting does not mend; each is a reason by the same name."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The Deployment of one revision."""

    revision: str
    uid: str
    replicas: int
    """As asked for now; an autoscaler may have changed it."""
    ready: int
    settled: bool = True
    """Whether the Deployment controller has seen the newest template and number."""
    created_at: datetime | None = None
    idle_since: datetime | None = None
    """When it was last seen to lose its traffic (annotation rlhf.dev/idle-since); None while it is wanted."""
    restarts: int = 0
    """Restarts of our container, over its pods."""
    trouble: Trouble = Trouble.NONE
    words: str = ""
    """What keeps pods from being ready, in the scheduler's or the kubelet's words."""
    scaled_by_others: bool = False
    """Whether an autoscaler owns the number."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A revision that is not tried again by itself."""

    revision: str
    reason: str
    """Of common.reasons: AnalysisFailed, Crashing, DigestMismatch, NotServable, Aborted, RolledBack."""
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where requests go: the whole content of the route that is ours to decide, with the marks it carries.

    Of `stable` and `candidate` the candidate has `weight` percent of the live requests and stable the rest.
    """

    stable: str
    candidate: str = ""
    step: str = ""
    """Name of the step; STARTING, BAKE, ROLLBACK, PROMOTE, or empty without a candidate."""
    index: int = -1
    """Of the step in the list as it was; -1 before the first, len(steps) while baking."""
    goal: int = 0
    """Weight that this stage is let through to. `weight` is below it while too few pods are ready, and never above:
    neither an edit of the spec nor a pod that comes back raises it."""
    weight: int = 0
    mirror: int = 0
    headers: tuple[tuple[str, str, str], ...] = ()
    """(name, value, type): requests with these go to the candidate whatever the weight."""
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteView:
    """The HTTPRoute as it is stored."""

    uid: str
    generation: int
    traffic: Traffic | None
    """As read from its annotations and rules; None when somebody else's marks can't be read."""
    accepted: bool | None
    """At its own generation, by every parent: Accepted and ResolvedRefs. None: not said yet."""
    accepted_at: datetime | None = None
    words: str = ""
    """What a gateway says when it refuses."""
    refused: bool = False
    stored_mirror: int = 0
    """Percent that the API server kept of the mirror; 100 where it pruned the field."""
    paused: bool = False
    """rlhf.dev/paused on it: nothing of ours is written."""


class Support(StrEnum):
    """Whether a gateway can do something."""

    YES = "Supported"
    NO = "Unsupported"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Command:
    """The annotation rlhf.dev/command, as read."""

    id: str
    verb: str
    revision: str
    step: str
    user: str
    verified: bool
    """Whether the cluster's admission policy has held the user against the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One PolicyRollout and everything around it, at one moment."""

    owner: Owner
    generation: int
    spec: PolicyRolloutSpec | None
    spec_problem: str = ""
    status: PolicyRolloutStatus
    raw_status: Mapping[str, object] = field(default_factory=dict)
    defaults: OperatorDefaults
    wanted: Wanted = Wanted()
    revisions: Mapping[str, Revision] = field(default_factory=dict)
    """By name: what is on record."""
    pods: Mapping[str, Pods] = field(default_factory=dict)
    """By revision."""
    route: RouteView | None = None
    command: Command | None = None
    mirror_support: Support = Support.UNKNOWN
    """Whether the gateway's controller mirrors a percentage."""
    gateway_api: bool = True
    """Whether the cluster has HTTPRoutes."""
    keda: bool = False
    children: tuple[tuple[str, str, str, str], ...] = ()
    """(kind, name, uid, revision or empty) of everything we own."""
    waits_for: str = ""
    """RewardModel that the analysis waits for, in words; empty: none."""

"""What a reconcile wants done, as data. The runtime executes it; nothing here does IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from rlhf_operator.common.resources import Resource

Manifest = Mapping[str, Any]
"""A Kubernetes object as JSON: apiVersion, kind, metadata and so on."""

FIELD_MANAGER = "rlhf-operator"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "rlhf-operator"
MANAGED_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
"""Every child carries this label: the caches of children select by it on the server's side."""

OWNER_KIND_LABEL = "rlhf.dev/owner-kind"
OWNER_NAME_LABEL = "rlhf.dev/owner-name"
"""Which of our objects a child (also a pod of our Job) belongs to: how its changes wake the right key."""

PAUSED_ANNOTATION = "rlhf.dev/paused"
"""Break glass: `"true"` on one of our objects or on one of its children stops every write of ours to it."""

Propagation = Literal["Foreground", "Background", "Orphan"]
WriteAction = Literal["apply", "create", "delete"]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly this object: the server refuses when the name now belongs to another uid."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    propagation: Propagation = "Background"


@dataclass(frozen=True, slots=True)
class Event:
    """One event about the reconciled object. `reason` is CamelCase, `message` the words of the condition."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    action: str = "Reconcile"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one reconcile wants. Executed in the order of the fields.

    apply: created when absent, else server-side apply, field manager `rlhf-operator`, forced; nothing is sent when
        the cached object already holds the manifest. Another's object of that name is a `WriteFailure` (`NameTaken`).
    create: created once and never touched again. AlreadyExists with our owner uid is fine; AlreadyExists that
        belongs to another is a `WriteFailure` (reason `NameTaken`) naming both.
    delete: with the uid as precondition; gone or another uid counts as done.
    status: the whole desired status; None leaves it. Written once, after every write above succeeded, and only
        when it differs from the observed one.
    events: emitted only after a status write of this plan, deduplicated. A plan whose status needs no write emits
        none: the transition they tell of is already recorded.
    wake_at: reconcile again no later than this, without anything having changed.
    """

    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    delete: tuple[Delete, ...] = ()
    status: Mapping[str, Any] | None = None
    events: tuple[Event, ...] = ()
    wake_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WriteFailure:
    """A child write that the server refused. `retriable` False: refused by validation, as it would be again."""

    action: WriteAction
    resource: Resource
    namespace: str
    name: str
    reason: str
    """Kubernetes' own reason (`Forbidden`, `Invalid`, `Conflict`, `Timeout`) or ours: `NameTaken`."""
    message: str
    retriable: bool


@dataclass(frozen=True, slots=True)
class OperatorDefaults:
    """The operator's settings that shape what controllers render. Frozen into the plan of an attempt, never re-read."""

    trainer_image: str
    trainer_image_pull_policy: str = "IfNotPresent"
    progress_interval_seconds: float = 15.0
    kueue_timeout_seconds: float = 60.0
    former_version_seconds: float = 60.0
    """Time in which clients with an open connection to the former version's pods have found the new ones."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts outside the cluster that prompts, responses and labels may go to; empty: none."""
    hub_access: bool = False
    server_image: str = ""
    """Image of the pods that serve; frozen with each version."""
    server_image_pull_policy: str = "IfNotPresent"
    prometheus_url: str = ""
    """The Prometheus of analyses that name none, and where KEDA asks for queue depths; empty: nowhere."""
    prometheus_scrape_seconds: float = 15.0
    """Time between two scrapes of a pod by the Prometheus that analyses ask."""
    commands_verified: bool = False
    """Whether an admission policy holds commands against who sends them."""
    gateway_mirror: str = "auto"
    """Whether gateways mirror a percentage: auto, supported or unsupported."""
    extra: Mapping[str, str] = field(default_factory=dict)

"""How a controller sees the cluster, and what a controller is. Protocols only: the runtime fills them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from rlhf_operator.common.intents import MANAGED_SELECTOR, Manifest, Plan, WriteFailure
from rlhf_operator.common.measurements import PrometheusTarget, Round
from rlhf_operator.common.resources import Resource


class ReadFailed(Exception):
    """A live read that gave no answer (server error, no permission, time-out): the fact is Unknown, never a guess.

    `forbidden` tells a missing permission, which no retry cures, from a server that may answer later.
    """

    def __init__(self, message: str, *, forbidden: bool = False) -> None:
        super().__init__(message)
        self.forbidden = forbidden


class TemplateRejected(Exception):
    """The API server refused a dry run. The message is the server's own words.

    `permanent` tells what validation refuses, as it would again, from quota, permission or policy, which may change
    without anything of ours changing.
    """

    def __init__(self, message: str, *, permanent: bool = True) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Child:
    """A resource whose changes wake its owner.

    selector: label selector applied by the server; None watches every object of the resource.
    optional: its API may be absent from the cluster (Kueue): then it is looked for now and then, and not reported
        as a fault.
    sought_by: whether an object of the controller's kind needs this optional child: while none does, it is not even
        looked for. None: it always is.
    trim: takes out of an object what no reader needs, before it is cached. Never of what a plan applies: that is
        compared whole.
    """

    resource: Resource
    selector: str | None = MANAGED_SELECTOR
    optional: bool = False
    sought_by: Callable[[Manifest], bool] | None = None
    trim: Callable[[dict[str, Any]], None] | None = None


class Reader(Protocol):
    """Reads for one observation. Cache reads are plain calls and free; `fetch…` goes to the API server.

    What is returned is the caller's own copy, without `metadata.managedFields`.
    """

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """From the watch cache. Only for the controller's kind and its children; KeyError for others."""
        ...

    def owned(self, resource: Resource, namespace: str, owner_uid: str) -> Sequence[Manifest]:
        """From the watch cache: objects with an owner reference to this uid, sorted by creation time and name."""
        ...

    def mentioning(self, resource: Resource, namespace: str, kind: str, name: str) -> Sequence[Manifest]:
        """From the watch cache: objects that speak of this object (`common.mentions`), sorted by name."""
        ...

    def synced(self, resource: Resource) -> bool:
        """Whether the cache of this child was filled at least once; False for an optional API that is absent.

        Raises ReadFailed while that is not known.
        """
        ...

    async def fetch(self, resource: Resource, namespace: str | None, name: str) -> Manifest | None:
        """Live GET; None when it does not exist. Raises ReadFailed."""
        ...

    async def events_of(self, namespace: str, uid: str) -> Sequence[Manifest]:
        """Live LIST of the Kubernetes events about one object, in no order. Raises ReadFailed."""
        ...

    async def dry_run_create(self, manifest: Manifest) -> None:
        """Ask the server whether it would take this object. Raises TemplateRejected, or ReadFailed without an answer.

        AlreadyExists counts as accepted: admission was passed.
        """
        ...

    async def progress(self, pod_ip: str, port: int) -> bytes | None:
        """GET /progress of a trainer pod: at most 64 KiB within 2 seconds; None for anything but a whole 200 answer."""
        ...

    async def measure(self, server: PrometheusTarget, queries: Mapping[str, str]) -> Round:
        """Instant queries of one Prometheus, all at its own present, within 20 seconds. Raises nothing."""
        ...


ObservedT = TypeVar("ObservedT")


class Controller(Protocol[ObservedT]):
    """One kind: its watch list and its three steps. The runtime calls observe → reconcile → executes the plan."""

    @property
    def resource(self) -> Resource:
        """The kind that is reconciled."""
        ...

    @property
    def children(self) -> tuple[Child, ...]:
        """What is cached beside it."""
        ...

    async def observe(self, obj: Manifest, reader: Reader) -> ObservedT:
        """All reading. `obj` is the object from the cache. ReadFailed may pass through: the key is retried later."""
        ...

    def reconcile(self, observed: ObservedT, now: datetime) -> Plan:
        """Pure: everything to be done. Must plan nothing when nothing is left to do."""
        ...

    def write_failed(self, observed: ObservedT, now: datetime, failure: WriteFailure) -> Plan:
        """Pure: status and events for a plan that stopped at a refused write; other fields of this plan are ignored.

        A retriable failure is tried again with back-off, any other at the next change or `wake_at`.
        """
        ...

    def phase(self, obj: Mapping[str, Any]) -> str:
        """The object's phase for the metric `objects by phase`; a short fixed set."""
        ...

"""Kubernetes events (events.k8s.io), deduplicated by what they say. An event that can't be written fails nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.common.intents import FIELD_MANAGER, Event, Manifest
from rlhf_operator.common.resources import EVENTS
from rlhf_operator.errors import Conflict, Fenced, KubeError, NotFound
from rlhf_operator.kube.client import KubeClient

logger = logging.getLogger(__name__)

_REMEMBERED = 2048
_WAITING_LIMIT = 10_000
_REPEAT_SECONDS = 300.0
# The server's bounds (events.k8s.io/v1).
_NOTE_LIMIT_BYTES = 1000
_REASON_LIMIT = 128


class Recorder:
    """Writes an event once; says the same again as a count, at most every five minutes.

    An event's name is a digest of what it says about which object: a new process finds the old one's event.
    `emit` only lines it up; `run` writes one after the other, so that children never wait for words.
    """

    def __init__(
        self,
        client: KubeClient,
        identity: str,
        *,
        dropped: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._identity = identity[:128]
        self._dropped = dropped
        self._clock = clock
        self._today = today
        self._waiting: asyncio.Queue[tuple[Manifest, Event]] = asyncio.Queue(_WAITING_LIMIT)
        self._said: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def emit(self, obj: Manifest, event: Event) -> None:
        """Line up one event about the object."""
        try:
            self._waiting.put_nowait((_reference(obj), event))
        except asyncio.QueueFull:
            self._dropped()

    async def run(self) -> None:
        """Write what is lined up, until cancelled."""
        while True:
            obj, event = await self._waiting.get()
            try:
                await self._write(obj, event)
            except (KubeError, Fenced) as error:
                self._dropped()
                logger.warning("event %s was not written: %s", event.reason, error)
            finally:
                self._waiting.task_done()

    async def drained(self) -> None:
        """Until everything that was lined up is written or given up."""
        await self._waiting.join()

    async def _write(self, obj: Manifest, event: Event) -> None:
        name = event_name(obj, event)
        count, at = self._said.get(name, (0, float("-inf")))
        if self._clock() - at < _REPEAT_SECONDS:
            self._remember(name, count + 1, at)
            return
        self._remember(name, count + 1, self._clock())
        if count:
            await self._repeat(obj, name, count + 1)
        else:
            await self._first(obj, name, event)

    async def _first(self, obj: Manifest, name: str, event: Event) -> None:
        metadata = obj["metadata"]
        manifest = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": metadata.get("namespace") or "default"},
            "eventTime": self._now(),
            "reportingController": FIELD_MANAGER,
            "reportingInstance": self._identity,
            "action": event.action,
            "reason": event.reason[:_REASON_LIMIT],
            "type": event.type,
            "note": _cut(event.message),
            "regarding": {
                "apiVersion": obj["apiVersion"],
                "kind": obj["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace") or "",
                "uid": metadata["uid"],
            },
        }
        try:
            await self._client.create(EVENTS, manifest)
        except Conflict:
            await self._repeat(obj, name, 2)
        except NotFound:
            # The namespace is being deleted, and the object with it.
            return

    async def _repeat(self, obj: Manifest, name: str, count: int) -> None:
        namespace = obj["metadata"].get("namespace") or "default"
        series = {"series": {"count": max(2, count), "lastObservedTime": self._now()}}
        try:
            await self._client.merge_patch(EVENTS, namespace, name, series)
        except NotFound:
            # It outlived its hour: the next one is a first one again.
            self._said.pop(name, None)

    def _remember(self, name: str, count: int, at: float) -> None:
        self._said[name] = (count, at)
        self._said.move_to_end(name)
        if len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)

    def _now(self) -> str:
        return self._today().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _reference(obj: Manifest) -> Manifest:
    """As much of an object as an event needs."""
    metadata = {key: obj["metadata"].get(key) for key in ("name", "namespace", "uid")}
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}


def event_name(obj: Manifest, event: Event) -> str:
    """The object's name and a digest of object, type, reason and message."""
    metadata: Any = obj["metadata"]
    said = "\0".join((metadata["uid"], event.type, event.reason, event.message))
    return f"{metadata['name'][:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _cut(message: str) -> str:
    raw = message.encode()
    if len(raw) <= _NOTE_LIMIT_BYTES:
        return message
    return raw[: _NOTE_LIMIT_BYTES - 3].decode("utf-8", "ignore") + "…"

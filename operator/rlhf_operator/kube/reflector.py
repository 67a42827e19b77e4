"""Keeps one store true to the cluster: list, then watch, then list again when the server forgot where we were."""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf_operator.common.resources import Resource
from rlhf_operator.errors import Forbidden, Gone, KubeError, NotFound, TimedOut
from rlhf_operator.kube.client import KubeClient, error_of_status
from rlhf_operator.kube.store import Entry, ObjectKey, Store

logger = logging.getLogger(__name__)

OnChange = Callable[[Resource, ObjectKey, Entry], None]
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
# An API that may be absent for good (Kueue's) is looked for once a minute.
_OPTIONAL_SECONDS = 60.0


class WatchState(enum.Enum):
    """What is known of one watch."""

    STARTING = "Starting"
    WATCHING = "Watching"
    FORBIDDEN = "Forbidden"
    ABSENT = "Absent"
    UNSOUGHT = "Unsought"
    UNREACHABLE = "Unreachable"
    SILENT = "Silent"


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """How long a watch may last, and how long it may say nothing. Seconds."""

    timeout: int = 240
    silence: float = 260.0
    unhealthy: float = 300.0


class Reflector:
    """One list+watch. Never gives up; says in `state` and `problem` what is wrong meanwhile."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        *,
        namespace: str | None,
        selector: str | None,
        optional: bool,
        on_change: OnChange,
        on_state: Callable[[Reflector], None],
        times: WatchTimes,
        one_page: asyncio.Semaphore,
        sought: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resource = store.resource
        self.namespace = namespace
        self.optional = optional
        self.state = WatchState.STARTING
        self.problem = ""
        self.listed = False
        self._client = client
        self._store = store
        self._selector = selector
        self._on_change = on_change
        self._on_state = on_state
        self._times = times
        self._one_page = one_page
        self._sought = sought
        self._seek = asyncio.Event()
        self._clock = clock
        self._heard_at = clock()
        self._failures = 0
        self._version: str | None = None
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    @property
    def age_seconds(self) -> float:
        """Since the server last said anything, a bookmark or a fresh list included."""
        return self._clock() - self._heard_at

    @property
    def usable(self) -> bool:
        """Whether the store may be believed: filled, and heard of not too long ago."""
        return self.listed and self.age_seconds <= self._times.unhealthy

    @property
    def hung(self) -> bool:
        """Silent for too long though nothing refuses us: what a new process might cure."""
        silent = self.state in (WatchState.WATCHING, WatchState.SILENT, WatchState.STARTING)
        return silent and self.age_seconds > self._times.unhealthy

    @property
    def settled(self) -> bool:
        """Whether the store holds what there is: it is listed, or optional and absent, or nothing asks for it."""
        return self.listed or (self.optional and (bool(self.problem) or not self._sought()))

    def seek(self) -> None:
        """Look again whether this resource is sought."""
        self._seek.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._until_sought()
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch(self._version)
            except Gone as error:
                logger.info("watch of %s: %s; listing again", self.resource, error)
                self._version = None
            except NotFound:
                # The API itself is not there: whatever comes back later starts from nothing.
                self._version = None
                self.listed = False
                self._set(WatchState.ABSENT, f"the API {self.resource.api_version} {self.resource.plural} is absent")
                await self._pause()
            except Forbidden as error:
                self._set(WatchState.FORBIDDEN, f"no permission to list and watch {self._where()}: {error.message}")
                await self._pause()
            except TimedOut as error:
                self._set(WatchState.SILENT, f"watch of {self._where()} is silent: {error}")
                await self._pause()
            except KubeError as error:
                self._set(WatchState.UNREACHABLE, f"watch of {self._where()}: {error}")
                await self._pause()

    async def _until_sought(self) -> None:
        while self._version is None and not self._sought():
            # What was listed once is not kept up any more, and may not be believed.
            self.listed = False
            self._set(WatchState.UNSOUGHT, "")
            self._seek.clear()
            await self._seek.wait()

    async def _list(self) -> str:
        """Replace the store's content by a whole list; returns the version to watch from."""
        listed: set[ObjectKey] = set()
        token: str | None = None
        while True:
            # One page of all the reflectors' at a time: a decoded page is many times its size on the wire.
            async with self._one_page:
                page = await self._client.list_page(self.resource, self.namespace, self._selector, token)
                self._heard_at = self._clock()
                listed |= self._take_page(page)
                version: str = page["metadata"]["resourceVersion"]
                token = page["metadata"].get("continue")
                del page
            if not token:
                break
        for key in self._store.missing_from(listed, int(version), self.namespace):
            known = self._store.entry(key)
            if known is not None and self._store.remove(key, known.uid) is not None:
                self._on_change(self.resource, key, known)
        self.listed = True
        self._failures = 0
        self._set(WatchState.WATCHING, "")
        return version

    def _take_page(self, page: dict[str, Any]) -> set[ObjectKey]:
        items = page.get("items") or []
        listed = set()
        items.reverse()
        while items:
            # Taken from the list as it is encoded, so that a page is never held twice.
            item = items.pop()
            metadata = item["metadata"]
            listed.add((metadata.get("namespace") or "", metadata["name"]))
            self._take(item)
        return listed

    async def _watch(self, version: str) -> None:
        """Follow one watch to its end; `_version` is always where the next one goes on."""
        # A watch that ends at once, again and again, must not become a busy loop.
        began = self._clock()
        events = self._client.watch(
            self.resource,
            self.namespace,
            version,
            self._selector,
            timeout_seconds=self._times.timeout,
            silence_seconds=self._times.silence,
        )
        async for batch in events:
            self._heard_at = self._clock()
            self._failures = 0
            self._set(WatchState.WATCHING, "")
            for event in batch:
                self._event(event)
        if self._clock() - began < 0.5:
            await asyncio.sleep(0.5)

    def _event(self, event: dict[str, Any]) -> None:
        obj = event["object"]
        kind = event["type"]
        if kind == "ERROR":
            raise error_of_status(obj)
        metadata = obj["metadata"]
        if kind == "DELETED":
            key = (metadata.get("namespace") or "", metadata["name"])
            known = self._store.remove(key, metadata["uid"])
            if known is not None:
                self._on_change(self.resource, key, known)
        elif kind != "BOOKMARK":
            self._take(obj)
        self._version = metadata["resourceVersion"]

    def _take(self, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        entry = self._store.upsert(obj)
        if entry is not None:
            self._on_change(self.resource, (metadata.get("namespace") or "", metadata["name"]), entry)

    def _set(self, state: WatchState, problem: str) -> None:
        changed = state is not self.state
        self.state, self.problem = state, problem
        if not changed:
            return
        if problem and not (self.optional and state is WatchState.ABSENT):
            logger.warning("%s; keeps trying, other watches go on", problem)
        elif state is WatchState.WATCHING:
            logger.info("watching %s", self._where())
        self._on_state(self)

    def _where(self) -> str:
        return f"{self.resource} in namespace {self.namespace}" if self.namespace else f"{self.resource}"

    async def _pause(self) -> None:
        """Double the wait at each failure in a row, with jitter."""
        seconds = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0**self._failures)
        if self.optional and self.state is WatchState.ABSENT:
            seconds = _OPTIONAL_SECONDS
        self._failures = min(self._failures + 1, 16)
        await asyncio.sleep(seconds * self._random.uniform(0.75, 1.25))

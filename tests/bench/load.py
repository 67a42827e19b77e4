"""Objects by the thousand, and watches that see when something happened to them. Runs on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from rlhf_operator.common.resources import Resource
from rlhf_operator.errors import KubeError
from rlhf_operator.kube.client import KubeClient

Object = dict[str, Any]


async def create_all(client: KubeClient, resource: Resource, manifests: Sequence[Object], at_once: int = 16) -> None:
    """Create them, so many at one time."""
    gate = asyncio.Semaphore(at_once)

    async def create(manifest: Object) -> None:
        async with gate:
            await client.create(resource, manifest)

    await asyncio.gather(*(create(manifest) for manifest in manifests))


class Watcher:
    """The newest version of every object of one resource in one namespace, and a wake-up at every change."""

    def __init__(self, client: KubeClient, resource: Resource, namespace: str) -> None:
        self._client, self._resource, self._namespace = client, resource, namespace
        self.objects: dict[str, Object] = {}
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[dict[str, Object]], bool], seconds: float, what: str) -> float:
        """The time (monotonic seconds) at which the condition was first seen to hold."""
        deadline = time.monotonic() + seconds
        while not condition(self.objects):
            self._changed.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{what}: not within {seconds} s; {len(self.objects)} {self._resource} seen")
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue
        return time.monotonic()

    async def follow(self) -> None:
        """Until cancelled."""
        version = ""
        while True:
            if not version:
                version = await self._list()
            try:
                version = await self._watch(version)
            except KubeError:
                version = ""

    async def _list(self) -> str:
        token: str | None = None
        while True:
            page = await self._client.list_page(self._resource, self._namespace, continue_token=token)
            for item in page.get("items") or ():
                self.objects[item["metadata"]["name"]] = item
            token = page["metadata"].get("continue")
            if not token:
                self._changed.set()
                version: str = page["metadata"]["resourceVersion"]
                return version

    async def _watch(self, version: str) -> str:
        events = self._client.watch(
            self._resource, self._namespace, version, None, timeout_seconds=300, silence_seconds=120
        )
        async for batch in events:
            for event in batch:
                metadata = event["object"]["metadata"]
                version = metadata["resourceVersion"]
                if event["type"] == "DELETED":
                    self.objects.pop(metadata["name"], None)
                elif event["type"] != "BOOKMARK":
                    self.objects[metadata["name"]] = event["object"]
            if batch:
                self._changed.set()
        return version


@asynccontextmanager
async def watching(client: KubeClient, resource: Resource, namespace: str) -> AsyncIterator[Watcher]:
    """A watcher that follows from before the body until after it."""
    watcher = Watcher(client, resource, namespace)
    task = asyncio.create_task(watcher.follow())
    try:
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

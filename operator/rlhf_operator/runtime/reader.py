"""The Reader that controllers observe through: stores for what is watched, the client for the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.measurements import PrometheusTarget, Round
from rlhf_operator.common.reader import ReadFailed, TemplateRejected
from rlhf_operator.common.resources import EVENTS, Resource, resource_of
from rlhf_operator.errors import ApiError, Conflict, Fenced, Forbidden, Invalid, KubeError, NotFound
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.prometheus.client import PrometheusClient
from rlhf_operator.runtime.caches import Caches

# A thousand jobs that start together refer to the same claim: one look serves them all.
_SHARED_SECONDS = 1.0
_SHARED_LIMIT = 256
_PROGRESS_SECONDS = 2.0
_PROGRESS_LIMIT_BYTES = 64 << 10


class CachedReader:
    """Implements `common.reader.Reader`. A cache that can't be believed raises ReadFailed rather than answer."""

    def __init__(
        self, client: KubeClient, caches: Caches, pods: aiohttp.ClientSession, prometheus: PrometheusClient
    ) -> None:
        self._client = client
        self._caches = caches
        self._pods = pods
        self._prometheus = prometheus
        self._shared: dict[tuple[Resource, str | None, str], tuple[float, asyncio.Task[bytes]]] = {}

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """From the watch cache."""
        return self._caches.believed(resource, namespace).get((namespace, name))

    def owned(self, resource: Resource, namespace: str, owner_uid: str) -> Sequence[Manifest]:
        """From the watch cache, by owner reference."""
        return self._caches.believed(resource, namespace).owned(namespace, owner_uid)

    def mentioning(self, resource: Resource, namespace: str, kind: str, name: str) -> Sequence[Manifest]:
        """From the watch cache, by mention."""
        store = self._caches.believed(resource, namespace)
        found = (store.get(key) for key in store.mentioning(namespace, (kind, name)))
        return [each for each in found if each is not None]

    def synced(self, resource: Resource) -> bool:
        """Whether the cache was filled at least once and its API is there."""
        return self._caches.synced(resource)

    async def fetch(self, resource: Resource, namespace: str | None, name: str) -> Manifest | None:
        """Live GET, shared for a second; None for an object, or an API, that does not exist."""
        key = (resource, namespace, name)
        now = time.monotonic()
        at, task = self._shared.get(key, (float("-inf"), None))
        if task is None or now - at > _SHARED_SECONDS or (task.done() and not _succeeded(task)):
            if len(self._shared) >= _SHARED_LIMIT:
                self._shared = {k: v for k, v in self._shared.items() if now - v[0] <= _SHARED_SECONDS}
            task = asyncio.create_task(self._fetch(resource, namespace, name))
            self._shared[key] = (now, task)
        try:
            # Shielded: one reconcile that is cut off must not take the answer from the others.
            found: Manifest | None = orjson.loads(await asyncio.shield(task))
        except KubeError as error:
            raise _failed(f"{resource} {name}", error) from error
        return found

    async def _fetch(self, resource: Resource, namespace: str | None, name: str) -> bytes:
        """JSON of the object, or `null`: each caller decodes a copy of its own."""
        try:
            return orjson.dumps(_clean(await self._client.get(resource, namespace, name)))
        except NotFound:
            return b"null"

    async def events_of(self, namespace: str, uid: str) -> Sequence[Manifest]:
        """Live LIST of the events about one object."""
        try:
            found = await self._client.list_all(EVENTS, namespace, field_selector=f"regarding.uid={uid}")
        except KubeError as error:
            raise _failed(f"list of {EVENTS}", error) from error
        return [_clean(item) for item in found]

    async def dry_run_create(self, manifest: Mapping[str, Any]) -> None:
        """Server-side dry run of a creation."""
        resource = resource_of(manifest["apiVersion"], manifest["kind"])
        try:
            await self._client.create(resource, manifest, dry_run=True)
        except Conflict as error:
            if error.reason != "AlreadyExists":
                raise _failed(f"dry run of {resource}", error) from error
        except Invalid as error:
            raise TemplateRejected(error.message) from error
        except Forbidden as error:
            # Admission (pod security, quota, a policy) speaks by 403 as missing permission does; its words tell which.
            # Each may be lifted while the object stays as it is.
            raise TemplateRejected(error.message, permanent=False) from error
        except (KubeError, Fenced) as error:
            raise _failed(f"dry run of {resource}", error) from error

    async def progress(self, pod_ip: str, port: int) -> bytes | None:
        """GET /progress of a trainer pod, bounded in time and size."""
        host = f"[{pod_ip}]" if ":" in pod_ip else pod_ip
        try:
            async with (
                asyncio.timeout(_PROGRESS_SECONDS),
                self._pods.get(f"http://{host}:{port}/progress", allow_redirects=False) as response,
            ):
                if response.status != 200:
                    return None
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > _PROGRESS_LIMIT_BYTES:
                        return None
                return bytes(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def measure(self, server: PrometheusTarget, queries: Mapping[str, str]) -> Round:
        """One round of queries."""
        return await self._prometheus.round(server, queries)


def _clean(obj: dict[str, Any]) -> dict[str, Any]:
    obj["metadata"].pop("managedFields", None)
    return obj


def _succeeded(task: asyncio.Task[bytes]) -> bool:
    return not task.cancelled() and task.exception() is None


def _failed(what: str, error: Exception) -> ReadFailed:
    words = error.message if isinstance(error, ApiError) else str(error)
    return ReadFailed(f"{what}: {words}", forbidden=isinstance(error, Forbidden))

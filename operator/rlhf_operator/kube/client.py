"""A thin client of the API server: aiohttp and orjson, retries, limits, a count of calls. Knows no kind of ours."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
import orjson

from rlhf_operator.common.intents import FIELD_MANAGER
from rlhf_operator.common.resources import Resource
from rlhf_operator.errors import ApiError, Fenced, KubeError, TimedOut, Unreachable, api_error
from rlhf_operator.kube.credentials import Credentials

# Decoded pages are what memory peaks at, and the heap does not shrink to what is kept of them.
PAGE_LIMIT = 100
_ANSWER_LIMIT_BYTES = 256 << 20
_WATCH_LINE_LIMIT_BYTES = 16 << 20
_RETRIED = frozenset({429, 502, 503, 504})
_ATTEMPTS = 5
_LONGEST_WAIT_SECONDS = 10.0
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"


class CallObserver(Protocol):
    """Told of every request that was sent, retries one by one."""

    def __call__(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """`verb` as RBAC names it (get list watch create patch delete), `code` 0 when no answer came."""
        ...


def _ignore(verb: str, resource: str, code: int, seconds: float) -> None:
    pass


class KubeClient:
    """One connection pool to one API server.

    may_write: asked before every write is sent; False raises Fenced. It stands between a process that lost its
        Lease, or slept through it, and the cluster.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        observer: CallObserver = _ignore,
        user_agent: str = FIELD_MANAGER,
        timeout_seconds: float = 30.0,
        connections: int = 100,
    ) -> None:
        self._credentials = credentials
        self._observer = observer
        self._timeout = timeout_seconds
        self._connections = connections
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self.may_write: Callable[[], bool] = lambda: True

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._credentials.tls or True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            # Compression costs both sides more than the wire inside a cluster.
            headers={"User-Agent": self._user_agent, "Accept": _JSON, "Accept-Encoding": "identity"},
            # No proxy, netrc or cookie from the environment may come between us and the API server.
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut every connection; requests in flight end as Unreachable."""
        if self._session is not None:
            await self._session.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any]:
        """One object. Raises NotFound."""
        return await self._object("get", "GET", resource, resource.path(namespace, name))

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None,
        label_selector: str | None = None,
        continue_token: str | None = None,
        field_selector: str | None = None,
    ) -> dict[str, Any]:
        """One page of a list, at most PAGE_LIMIT objects; the next one by `metadata.continue`."""
        params = {"limit": str(PAGE_LIMIT)}
        if label_selector:
            params["labelSelector"] = label_selector
        if field_selector:
            params["fieldSelector"] = field_selector
        if continue_token:
            params["continue"] = continue_token
        return await self._object("list", "GET", resource, resource.path(namespace), params)

    async def list_all(
        self,
        resource: Resource,
        namespace: str | None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> list[dict[str, Any]]:
        """All pages of a list."""
        items: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            page = await self.list_page(resource, namespace, label_selector, token, field_selector)
            items += page.get("items") or []
            token = page["metadata"].get("continue")
            if not token:
                return items

    async def create(self, resource: Resource, manifest: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """POST. A retry after a lost answer may find its own object: callers judge AlreadyExists by owner."""
        params = {"fieldManager": FIELD_MANAGER}
        if dry_run:
            params["dryRun"] = "All"
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._object("create", "POST", resource, path, params, orjson.dumps(manifest))

    async def apply(self, resource: Resource, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply, forced: fields of ours that others took are taken back."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        params = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._object("patch", "PATCH", resource, path, params, orjson.dumps(manifest), _APPLY)

    async def replace(self, resource: Resource, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """PUT: with `metadata.resourceVersion`, an older version is refused as Conflict."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        params = {"fieldManager": FIELD_MANAGER}
        return await self._object("update", "PUT", resource, path, params, orjson.dumps(manifest))

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Mapping[str, Any],
        manager: str = FIELD_MANAGER,
    ) -> dict[str, Any]:
        """JSON merge patch, in the name of this field manager."""
        path = resource.path(namespace, name)
        params = {"fieldManager": manager}
        return await self._object("patch", "PATCH", resource, path, params, orjson.dumps(patch), _MERGE_PATCH)

    async def replace_status(
        self, resource: Resource, namespace: str, name: str, resource_version: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The whole status in place of the former, if the object is still at this version; else Conflict."""
        patch = [
            # The version in a patch is a precondition; a `test` would be answered 422 rather than 409.
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": status},
        ]
        path = resource.path(namespace, name, "status")
        params = {"fieldManager": FIELD_MANAGER}
        return await self._object("patch", "PATCH", resource, path, params, orjson.dumps(patch), _JSON_PATCH)

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, uid: str, propagation: str
    ) -> dict[str, Any]:
        """Delete exactly this uid; Conflict when the name is another object's by now."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": propagation,
        }
        return await self._object(
            "delete", "DELETE", resource, resource.path(namespace, name), None, orjson.dumps(body)
        )

    async def raw(self, path: str) -> dict[str, Any]:
        """GET of a path that is no resource: `/version`."""
        return await self._request("get", path, "GET", path, None, None, _JSON)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None,
        resource_version: str,
        label_selector: str | None,
        *,
        timeout_seconds: int,
        silence_seconds: float,
    ) -> AsyncIterator[Sequence[dict[str, Any]]]:
        """Watch events in batches, as they came together, until the server ends the watch.

        Raises TimedOut after `silence_seconds` without a byte; longer than `timeout_seconds`, that is a hung watch.
        """
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
        }
        if label_selector:
            params["labelSelector"] = label_selector
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence_seconds)
        started = time.monotonic()
        code = 0
        try:
            async with self._open().get(
                self._credentials.server + resource.path(namespace),
                params=params,
                headers=self._credentials.headers(),
                timeout=timeout,
                server_hostname=self._credentials.server_name,
            ) as response:
                code = response.status
                self._observer("watch", resource.qualified, code, time.monotonic() - started)
                if code != 200:
                    raise _error(code, await response.content.read(1 << 20))
                # The stream is known to be open before the first change: the watch is alive.
                yield ()
                pending = bytearray()
                async for chunk in response.content.iter_any():
                    pending += chunk
                    end = pending.rfind(b"\n")
                    if end >= 0:
                        lines = bytes(pending[:end]).split(b"\n")
                        del pending[: end + 1]
                        yield [orjson.loads(line) for line in lines if line]
                    elif len(pending) > _WATCH_LINE_LIMIT_BYTES:
                        raise Unreachable(f"watch of {resource}: an event larger than {_WATCH_LINE_LIMIT_BYTES} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            if not code:
                self._observer("watch", resource.qualified, 0, time.monotonic() - started)
            raise _unreachable(f"watch of {resource}", error) from error

    async def _object(
        self,
        verb: str,
        method: str,
        resource: Resource,
        path: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
    ) -> dict[str, Any]:
        return await self._request(verb, resource.qualified, method, path, params, body, content_type)

    async def _request(
        self,
        verb: str,
        resource: str,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
    ) -> dict[str, Any]:
        """One request with its retries. Every write of ours may be sent twice: names and versions make it the same."""
        for attempt in range(1, _ATTEMPTS + 1):
            if method != "GET" and not self.may_write():
                raise Fenced(f"{verb} {path}: this process does not hold the Lease")
            try:
                code, payload, retry_after = await self._send(verb, resource, method, path, params, body, content_type)
            except Unreachable:
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(self._wait(attempt, None))
                continue
            if code < 300:
                return _decoded(payload, path)
            if code == 401:
                self._credentials.forget_token()
            if (code in _RETRIED or (code == 500 and retry_after is not None)) and attempt < _ATTEMPTS:
                await asyncio.sleep(self._wait(attempt, retry_after))
                continue
            raise _error(code, payload)
        raise AssertionError("the last attempt returns or raises")

    async def _send(
        self,
        verb: str,
        resource: str,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
    ) -> tuple[int, bytes, float | None]:
        headers = dict(self._credentials.headers())
        if body is not None:
            headers["Content-Type"] = content_type
        started = time.monotonic()
        code = 0
        try:
            async with self._open().request(
                method,
                self._credentials.server + path,
                params=params,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=10),
                server_hostname=self._credentials.server_name,
                allow_redirects=False,
            ) as response:
                payload = await response.read()
                code = response.status
                if len(payload) > _ANSWER_LIMIT_BYTES:
                    raise KubeError(f"{verb} {path}: an answer larger than {_ANSWER_LIMIT_BYTES} bytes")
                return code, payload, _seconds(response.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(f"{verb} {path}", error) from error
        finally:
            self._observer(verb, resource, code, time.monotonic() - started)

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        """Seconds before the next attempt: what the server asked for, else doubling from 0.1 s, with jitter."""
        base = retry_after if retry_after is not None else 0.1 * 2 ** (attempt - 1)
        return min(_LONGEST_WAIT_SECONDS, base) * (1 + 0.2 * self._random.random())

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise Unreachable("the client is closed")
        return self._session


def _decoded(payload: bytes, path: str) -> dict[str, Any]:
    try:
        decoded = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise Unreachable(f"{path}: the answer is not JSON; is there a proxy between?") from error
    if not isinstance(decoded, dict):
        raise Unreachable(f"{path}: the answer is not a JSON object")
    return decoded


def _error(code: int, payload: bytes) -> ApiError:
    """The exception of a Status answer, or of what a proxy sent in its place."""
    try:
        status = orjson.loads(payload)
        return api_error(code, str(status.get("reason") or "Unknown"), str(status.get("message") or f"HTTP {code}"))
    except (orjson.JSONDecodeError, AttributeError):
        text = payload[:200].decode("utf-8", "replace").strip()
        return api_error(code, "Unknown", f"HTTP {code}: {text}")


def error_of_status(status: Mapping[str, Any]) -> ApiError:
    """The exception of a Status object inside a watch stream."""
    code = int(status.get("code") or 500)
    return api_error(code, str(status.get("reason") or "Unknown"), str(status.get("message") or f"code {code}"))


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _unreachable(what: str, error: BaseException) -> Unreachable:
    words = f"{what}: {str(error) or type(error).__name__}"
    return TimedOut(words) if isinstance(error, TimeoutError) else Unreachable(words)

"""A plain, blocking client of the API server for tests. The operator's own client is what they test."""

from __future__ import annotations

import base64
import http.client
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

from opkit.process import wait_for
from rlhf_operator.common.resources import CONFIGMAPS, CRDS, NAMESPACES, Resource
from rlhf_operator.kube.credentials import from_kubeconfig

Object = dict[str, Any]
_CRDS = Path(__file__).parents[2] / "crds"
_PATCHES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}


class ApiError(AssertionError):
    """An answer that is no success."""

    def __init__(self, code: int, body: str) -> None:
        super().__init__(f"HTTP {code}: {body[:500]}")
        self.code = code


class Api:
    """One connection, logged in as a kubeconfig says."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        credentials = from_kubeconfig(kubeconfig)
        self._address = urlsplit(credentials.server).netloc
        self._tls = credentials.tls
        self._headers = dict(credentials.headers())
        self._connection: http.client.HTTPSConnection | None = None

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Object:
        """One request. Raises ApiError."""
        headers = {**self._headers, "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        for fresh in (False, True):
            if self._connection is None:
                self._connection = http.client.HTTPSConnection(self._address, context=self._tls, timeout=30)
            try:
                self._connection.request(method, path, data, headers)
                answer = self._connection.getresponse()
                text = answer.read().decode()
                break
            except (http.client.HTTPException, OSError):
                self.close()
                if fresh:
                    raise
        if answer.status >= 300:
            raise ApiError(answer.status, text)
        decoded: Object = json.loads(text) if text.startswith("{") else {"text": text}
        return decoded

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """One object, or None."""
        try:
            return self.call("GET", resource.path(namespace, name))
        except ApiError as failure:
            if failure.code == 404:
                return None
            raise

    def list(self, resource: Resource, namespace: str | None, selector: str = "") -> list[Object]:
        """All objects."""
        query = f"?{urlencode({'labelSelector': selector})}" if selector else ""
        items: list[Object] = self.call("GET", resource.path(namespace) + query).get("items") or []
        return items

    def create(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """POST."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}
        return self.call("POST", resource.path(manifest["metadata"].get("namespace")), body)

    def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Any,
        sub: str | None = None,
        how: str = "merge",
    ) -> Object:
        """Merge patch, or JSON patch."""
        return self.call("PATCH", resource.path(namespace, name, sub), patch, _PATCHES[how])

    def delete(self, resource: Resource, namespace: str | None, name: str, propagation: str = "Background") -> None:
        """DELETE; gone already is fine."""
        try:
            self.call("DELETE", resource.path(namespace, name), {"propagationPolicy": propagation})
        except ApiError as failure:
            if failure.code != 404:
                raise

    def eventually(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        condition: Callable[[Object], Any],
        seconds: float = 60.0,
    ) -> Object:
        """The object once the condition holds of it; TimeoutError shows the object as it was seen last."""
        seen: Object | None = None

        def look() -> Object | None:
            nonlocal seen
            seen = self.get(resource, namespace, name)
            return seen if seen is not None and condition(seen) else None

        try:
            return wait_for(f"{resource} {name}", look, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{resource} {name}: condition not met within {seconds} s; last seen: {seen}") from error

    def install_our_crds(self) -> None:
        """Install the project's own CRDs."""
        for path in sorted(_CRDS.glob("*.yaml")):
            self.install_crd(yaml.safe_load(path.read_text(encoding="utf-8")))

    def install_crd(self, crd: Mapping[str, Any]) -> None:
        """Create a CRD, or leave the one that is there, and wait until it is served."""
        name = crd["metadata"]["name"]
        if self.get(CRDS, None, name) is None:
            self.create(CRDS, crd)

        def established(found: Object) -> bool:
            conditions = found.get("status", {}).get("conditions") or ()
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        self.eventually(CRDS, None, name, established)
        # Established comes a moment before the API answers; an operator that asks in between takes an optional one for
        # absent, and looks again in a minute.
        spec = crd["spec"]
        version = next(each["name"] for each in spec["versions"] if each["served"])
        path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}?limit=1"
        wait_for(f"{name} to be served", lambda: self._answers(path))

    def _answers(self, path: str) -> bool:
        try:
            self.call("GET", path)
        except ApiError as failure:
            if failure.code == 404:
                return False
            raise
        return True

    @contextmanager
    def namespace(self, prefix: str) -> Iterator[str]:
        """A namespace with a name of its own, deleted at the end."""
        name = f"{prefix}-{uuid.uuid4().hex[:8]}"
        self.create(NAMESPACES, {"metadata": {"name": name}})
        # What the controller manager puts in comes later, and would be seen as a change by tests that count.
        self.eventually(CONFIGMAPS, name, "kube-root-ca.crt", bool)
        try:
            yield name
        finally:
            self.delete(NAMESPACES, None, name)


def condition(status: Object, name: str) -> Object:
    """A condition of a status; empty when it is not there."""
    found: Object = next((each for each in status.get("conditions", ()) if each["type"] == name), {})
    return found


def kubeconfig_for(
    base: Path, target: Path, *, server: str | None = None, token: str | None = None, token_file: Path | None = None
) -> Path:
    """A copy of a kubeconfig with another server or another user."""
    config = yaml.safe_load(base.read_text(encoding="utf-8"))
    cluster = config["clusters"][0]["cluster"]
    if server is not None:
        cluster["server"] = server
    if "certificate-authority" in cluster:
        authority = (base.parent / cluster.pop("certificate-authority")).read_bytes()
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    if token is not None:
        config["users"][0]["user"] = {"token": token}
    if token_file is not None:
        config["users"][0]["user"] = {"tokenFile": str(token_file)}
    target.write_text(yaml.safe_dump(config), encoding="utf-8")
    target.chmod(0o600)
    return target


def server_of(kubeconfig: Path) -> str:
    """host:port of the API server."""
    return urlsplit(from_kubeconfig(kubeconfig).server).netloc

"""A very small client of the bed's API server: readiness and reads by path. Writes go through kubectl."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed.errors import BedError

_TIMEOUT_SECONDS = 10


class KubeApi:
    """Reads from the API server as the admin."""

    def __init__(self, port: int, pki: Path) -> None:
        self._port = port
        self._pki = pki

    def get(self, path: str) -> tuple[int, str]:
        """(status, body); status 0 when nothing answers."""
        context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
        context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=_TIMEOUT_SECONDS, context=context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (TimeoutError, OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def json(self, path: str) -> dict[str, Any] | None:
        """The object at a path, or None."""
        status, body = self.get(path)
        if status != 200:
            return None
        value = json.loads(body)
        return value if isinstance(value, dict) else None

    def ready(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.get("/readyz")[0] == 200


class Kubectl:
    """Runs kubectl against one kubeconfig."""

    def __init__(self, binary: Path, kubeconfig: Path) -> None:
        self._head = [str(binary), "--kubeconfig", str(kubeconfig)]

    def run(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 300) -> str:
        """Its output. Raises BedError with what kubectl said."""
        done = subprocess.run(
            [*self._head, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode != 0:
            raise BedError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()[:2000]}")
        return done.stdout

    def apply(self, manifests: Sequence[dict[str, Any]]) -> None:
        """Server-side apply of manifests."""
        text = yaml.safe_dump_all(manifests)
        self.run("apply", "--server-side", "--force-conflicts", "--field-manager=testbed", "-f", "-", stdin=text)

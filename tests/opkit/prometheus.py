"""A real Prometheus on loopback that scrapes what a test exposes."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from opkit.process import wait_for
from testbed.binaries import require
from testbed.paths import Paths
from testbed.progress import Progress

Exposition = Callable[[], str]
"""Asked at every scrape: what /metrics answers."""


@dataclass(frozen=True)
class RunningPrometheus:
    """One server."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Its base URL, without TLS."""
        return f"http://127.0.0.1:{self.port}"

    def holds(self, query: str) -> bool:
        """Whether an instant query finds a series now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", f"/api/v1/query?query={quote(query)}")
            return bool(json.loads(connection.getresponse().read())["data"]["result"])
        except (OSError, http.client.HTTPException, KeyError, ValueError):
            return False
        finally:
            connection.close()


@contextmanager
def prometheus(
    folder: Path, target: int | None = None, *, interval: str = "1s", web: Mapping[str, Any] | None = None
) -> Iterator[RunningPrometheus]:
    """A server whose state lies in `folder`; it scrapes this port of loopback, and is gone at the end."""
    binary = require(["prometheus"], Paths.default(), Progress())["prometheus"]
    port = _free_port()
    config: dict[str, Any] = {"global": {"scrape_interval": interval, "scrape_timeout": interval}}
    if target is not None:
        job = {"job_name": "test", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        config["scrape_configs"] = [job]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "web.yml").write_text(yaml.safe_dump(dict(web or {})), encoding="utf-8")
    command = [
        str(binary),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--web.config.file={folder / 'web.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def listens() -> bool:
        if process.poll() is not None:
            raise AssertionError((folder / "log").read_text(encoding="utf-8")[-2000:])
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for("Prometheus's port", listens, 60)
        yield RunningPrometheus(port, process)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def exposed(exposition: Exposition) -> Iterator[int]:
    """A scrape target on loopback; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exposition().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, name="scrape target", daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

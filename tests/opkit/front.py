"""A front before the API server, on loopback and without TLS: notes every write, and can end whoever writes.

What waits in the sockets of a process that was killed reaches the API server no more: a kill is exact to the write.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from opkit.api import kubeconfig_for
from rlhf_operator.common.resources import EVENTS, LEASES
from rlhf_operator.kube.credentials import from_kubeconfig

_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass(frozen=True)
class Write:
    """A request that changes something; Leases, Events and dry runs are none."""

    method: str
    path: str
    """Of the object, the name of one that is created included."""
    body: bytes
    at: float
    """time.monotonic() when it came."""


Due = Callable[[Write], bool]
"""Asked once of every write in their order: whether the writer is to be killed at it."""


class Front:
    """Passes on to the API server of a kubeconfig; one process at a time talks to it."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._credentials = from_kubeconfig(kubeconfig)
        self.address = urlsplit(self._credentials.server).netloc
        self.writes: list[Write] = []
        self._kill: Callable[[], None] | None = None
        self._due: Due = lambda _: False
        self._answered = False
        self._lock = threading.Lock()
        self.life = 0
        """How many processes were killed."""
        self.behind: set[http.client.HTTPConnection] = set()
        front = self

        class Handler(_Handler):
            def setup(self) -> None:
                self.front, self.life = front, front.life
                super().setup()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        folder.mkdir(parents=True, exist_ok=True)
        self.kubeconfig = kubeconfig_for(
            kubeconfig, folder / "front", server=f"http://127.0.0.1:{self._server.server_port}"
        )

    def __enter__(self) -> Front:
        threading.Thread(target=self._server.serve_forever, name="front", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._hang_up()

    def kill_when(self, due: Due, kill: Callable[[], None], *, answered: bool) -> None:
        """Note writes anew, and call `kill` at the first that is due: before it is passed on, or once answered."""
        with self._lock:
            self.writes, self._due, self._answered, self._kill = [], due, answered, kill

    def connect(self) -> http.client.HTTPSConnection:
        """A connection to the API server."""
        behind = http.client.HTTPSConnection(self.address, context=self._credentials.tls, timeout=600)
        self.behind.add(behind)
        return behind

    @property
    def log_in(self) -> dict[str, str]:
        """The headers that log in."""
        return dict(self._credentials.headers())

    def note(self, life: int, method: str, path: str, body: bytes) -> Write | None:
        """A write came; None when it is not to be passed on."""
        with self._lock:
            if life != self.life:
                return None
            write = Write(method, path, body, time.monotonic())
            self.writes.append(write)
            if not self._answered and self._is_due(write):
                self._end()
                return None
            return write

    def answered(self, life: int, write: Write) -> bool:
        """The API server has answered a write; whether who sent it still lives to hear so."""
        with self._lock:
            if life == self.life and self._answered and self._is_due(write):
                self._end()
            return life == self.life

    def _is_due(self, write: Write) -> bool:
        return self._kill is not None and self._due(write)

    def _end(self) -> None:
        kill, self._kill = self._kill, None
        self.life += 1
        if kill is not None:
            kill()
        self._hang_up()

    def _hang_up(self) -> None:
        """Nobody listens any more: watches would go on until the API server ends them."""
        for behind in list(self.behind):
            with contextlib.suppress(OSError):
                if behind.sock is not None:
                    behind.sock.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    front: Front
    life: int

    def setup(self) -> None:
        super().setup()
        self._behind = self.front.connect()

    def handle(self) -> None:
        # Who was killed closes nothing.
        with contextlib.suppress(OSError):
            super().handle()

    def finish(self) -> None:
        self._behind.close()
        self.front.behind.discard(self._behind)
        with contextlib.suppress(OSError):
            super().finish()

    def _pass_on(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        write = None
        if self.command in _WRITES and (path := _written(self.command, self.path, body)):
            write = self.front.note(self.life, self.command, path, body)
            if write is None:
                return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {*_HOP, "host"}}
        try:
            self._behind.request(self.command, self.path, body or None, headers | self.front.log_in)
            answer = self._behind.getresponse()
            self._answer(answer, write)
        except (OSError, http.client.HTTPException, ValueError):
            # One of the two has gone.
            return

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 - as the base class looks them up

    def _answer(self, answer: http.client.HTTPResponse, write: Write | None) -> None:
        streams = answer.getheader("Content-Length") is None
        body = b"" if streams else answer.read()
        if write is not None and not self.front.answered(self.life, write):
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if streams:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if not streams:
            self.wfile.write(body)
        else:
            while chunk := answer.read1(1 << 16):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = False

    def log_message(self, *_: object) -> None:
        """Tests have no use for an access log."""


def _written(method: str, target: str, body: bytes) -> str:
    """The path of what a request changes; empty when it does not count."""
    parts = urlsplit(target)
    if "dryRun" in parts.query or any(f"/{each.plural}" in parts.path for each in (LEASES, EVENTS)):
        return ""
    return parts.path if method != "POST" else f"{parts.path}/{json.loads(body)['metadata']['name']}"

"""A hub over real HTTP: the endpoints that huggingface_hub calls, repositories with branches, private ones, faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1 << 16
"""Files from here on lie behind a redirect, with their SHA-256 in the listing."""


@dataclass
class Repo:
    """One repository."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files on a branch; returns the commit."""
        said = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, sort_keys=True)
        name = hashlib.sha1(f"{len(self.commits)} {said}".encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    authorization: str | None


Fault = Callable[[Request, bytes], tuple[int, dict[str, str], bytes] | None]
"""Given a request and the answer's body, the answer instead of it, or None. A shorter body is cut off on the way."""


class Hub:
    """The server. `models` and `datasets` by name; `faults` are asked in turn, `requests` is what came."""

    def __init__(self) -> None:
        self.models: dict[str, Repo] = {}
        self.datasets: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._serve(self, {})

            def do_HEAD(self) -> None:
                hub._serve(self, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                form = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
                hub._serve(self, form)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}"
        """Another origin: a token is none of its business."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, times: int, status: int, part: str = "") -> None:
        """Answer the next requests whose path holds `part` with an error."""
        left = [times]

        def fault(request: Request, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
            if left[0] == 0 or part not in request.path:
                return None
            left[0] -= 1
            return status, {}, b"not now"

        self.faults.append(fault)

    def asked(self, part: str) -> list[Request]:
        return [request for request in self.requests if part in request.path]

    def _serve(self, handler: BaseHTTPRequestHandler, form: dict[str, Any]) -> None:
        request = Request(handler.command, handler.path, handler.headers.get("Authorization"))
        self.requests.append(request)
        status, headers, body = self._answer(request, form)
        length = len(body)
        for fault in self.faults:
            if (instead := fault(request, body)) is not None:
                status, headers, body = instead
                length = int(headers.pop("Content-Length", len(body)))
                break
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)
        if length != len(body):
            handler.close_connection = True

    def _answer(self, request: Request, form: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        parts = [unquote(part) for part in urlsplit(request.path).path.strip("/").split("/")]
        if parts[0] == "large":
            return 200, {}, self._large[parts[1]]
        if parts[0] == "api":
            kind, name, verb, revision, *rest = parts[1], "/".join(parts[2:4]), parts[4], parts[5], *parts[6:]
        else:
            kind = "datasets" if parts[0] == "datasets" else "models"
            parts = parts[1:] if kind == "datasets" else parts
            name, verb, revision, *rest = "/".join(parts[:2]), parts[2], parts[3], *parts[4:]
        repo = (self.datasets if kind == "datasets" else self.models).get(name)
        if repo is None or (repo.token is not None and request.authorization != f"Bearer {repo.token}"):
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = repo.branches.get(revision, revision)
        files = repo.commits.get(commit)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        path = "/".join(rest)
        match verb:
            case "revision":
                return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": []}).encode()
            case "paths-info":
                wanted = form["paths"] if isinstance(form["paths"], list) else [form["paths"]]
                found = [each for want in wanted for each in _entries(files) if each["path"] == want.strip("/")]
                return 200, {}, json.dumps(found).encode()
            case "tree":
                recursive = parse_qs(urlsplit(request.path).query).get("recursive", ["false"])[0].lower() == "true"
                inside = f"{path}/" if path else ""
                below = [each for each in _entries(files) if each["path"].startswith(inside)]
                if not below:
                    return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
                depth = inside.count("/")
                shown = [each for each in below if recursive or each["path"].count("/") == depth]
                return 200, {}, json.dumps(shown).encode()
            case "resolve" if path in files:
                data = files[path]
                if len(data) < LARGE:
                    return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, data
                return 302, {"Location": f"{self.elsewhere}/large/{hashlib.sha256(data).hexdigest()}"}, b""
        return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"

    @property
    def _large(self) -> dict[str, bytes]:
        repos = [*self.models.values(), *self.datasets.values()]
        return {
            hashlib.sha256(data).hexdigest(): data
            for repo in repos
            for files in repo.commits.values()
            for data in files.values()
        }


def _entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    folders = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
    for name, data in sorted(files.items()):
        entry: dict[str, Any] = {"type": "file", "oid": "0" * 40, "size": len(data), "path": name}
        if len(data) >= LARGE:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        found.append(entry)
    return found

"""What the demo and the end-to-end tests do to a cluster: kubectl, helm, a loader pod for files."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

# All of stdin is read first: a program that ends before leaves kubectl waiting for somebody to take the rest.
_UNPACK = (
    "import io, os, sys, tarfile; data = io.BytesIO(sys.stdin.buffer.read()); os.makedirs({0!r}); "
    "tarfile.open(fileobj=data).extractall({0!r})"
)
_PACK = (
    "import sys, tarfile; t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|'); t.add({!r}, arcname='.'); t.close()"
)
_WIPE = "import shutil, glob; [shutil.rmtree(path, ignore_errors=True) for path in glob.glob({!r})]"
MOUNT = "/volume"
"""Where the loader pod has the claim."""


class ClusterError(Exception):
    """A command against the cluster failed, or a wait came to its end; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster and one namespace of it."""

    kubectl: Path
    helm: Path
    kubeconfig: Path
    namespace: str

    def run(self, *arguments: str, stdin: bytes | None = None, timeout_seconds: float = 300) -> bytes:
        """Output of kubectl in the namespace. Raises ClusterError with its words."""
        command = [str(self.kubectl), "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *arguments]
        return _output(command, f"kubectl {' '.join(arguments)}", stdin, timeout_seconds)

    def run_helm(self, *arguments: str, stdin: bytes | None = None, timeout_seconds: float = 300) -> bytes:
        """Output of helm. Raises ClusterError with its words."""
        command = [str(self.helm), "--kubeconfig", str(self.kubeconfig), *arguments]
        return _output(command, f"helm {' '.join(arguments)}", stdin, timeout_seconds)

    def get(self, kind: str, name: str) -> Object | None:
        """One object, or None when it does not exist."""
        text = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def objects(self, kind: str, selector: str = "") -> list[Object]:
        """Objects of a kind, by label selector."""
        items: list[Object] = json.loads(self.run("get", kind, "-l", selector, "-o", "json"))["items"]
        return items

    def apply(self, documents: Sequence[Object]) -> None:
        """Server-side apply."""
        text = yaml.safe_dump_all(documents).encode()
        self.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def delete(self, kind: str, name: str) -> None:
        """Delete and wait until it is gone; nothing when it does not exist."""
        self.run("delete", kind, name, "--ignore-not-found", "--wait=true")

    def ensure_namespace(self) -> None:
        """Make the namespace unless it exists."""
        self.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}])

    def tell(self, selector: str) -> str:
        """What people look at first when pods don't do as they should: state, last log lines, events."""
        told = []
        for pod in self.objects("pods", selector):
            name = pod["metadata"]["name"]
            told.append(self.run("get", "pod", name, "-o", "wide").decode(errors="replace"))
            for arguments in (("logs", name, "--tail=25", "--all-containers"), ("events", "--for", f"pod/{name}")):
                try:
                    told.append(self.run(*arguments).decode(errors="replace")[-3000:])
                except ClusterError as error:
                    told.append(str(error))
        return "\n".join(told) or f"no pods with {selector}"

    def wait(
        self,
        what: str,
        probe: Callable[[], Any],
        timeout_seconds: float,
        seen: Callable[[], str] = lambda: "",
        interval_seconds: float = 1.0,
    ) -> Any:
        """Poll `probe` until it gives something true, and return that. Raises ClusterError with what was seen."""
        deadline = time.monotonic() + timeout_seconds
        while not (found := probe()):
            if time.monotonic() >= deadline:
                raise ClusterError(f"{what} did not happen within {timeout_seconds:.0f} s\n{seen()}".rstrip())
            time.sleep(interval_seconds)
        return found


def _output(command: Sequence[str], words: str, stdin: bytes | None, timeout_seconds: float) -> bytes:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{words[:300]}` did not end within {timeout_seconds:.0f} s") from error
    if done.returncode != 0:
        raise ClusterError(f"`{words[:300]}` failed: {done.stderr.decode(errors='replace').strip()[:2000]}")
    return done.stdout


def condition(obj: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any] | None:
    """The condition of that type, or None."""
    conditions = ((obj or {}).get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry.get("type") == kind), None)


def is_true(obj: Mapping[str, Any] | None, kind: str) -> bool:
    """Whether the condition of that type has status True."""
    return (condition(obj, kind) or {}).get("status") == "True"


class Loader:
    """A pod with the claim mounted, through which files go in and out; any cluster has what it needs.

    Use it as a context manager: the pod is gone afterwards.
    """

    def __init__(self, cluster: Cluster, claim: str, image: str, name: str = "loader") -> None:
        self._cluster = cluster
        self._claim = claim
        self._image = image
        self._name = name

    def manifest(self) -> Object:
        """The pod: Python and the claim, under the restricted pod security standard."""
        container = {
            "name": "loader",
            "image": self._image,
            "command": ["python3", "-c", "import signal; signal.signal(15, lambda *_: exit(0)); signal.pause()"],
            "volumeMounts": [{"name": "volume", "mountPath": MOUNT}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self._name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 2,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "runAsGroup": 65532,
                    "fsGroup": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": self._claim}}],
            },
        }

    def __enter__(self) -> Loader:
        self._cluster.delete("pod", self._name)
        self._cluster.apply([self.manifest()])
        self._cluster.wait(f"pod {self._name} Ready", self._ready, 180, self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.run("delete", "pod", self._name, "--ignore-not-found", "--wait=false")

    def upload(self, folder: Path, target: str) -> None:
        """Put a folder's files at `target` on the claim; what was there goes away."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(folder, arcname=".", filter=_anonymous)
        path = f"{MOUNT}/{target}"
        self.remove(target)
        self._python(_UNPACK.format(path), buffer.getvalue())

    def download(self, source: str, folder: Path) -> None:
        """Bring the files below `source` on the claim into `folder`."""
        data = self._python(_PACK.format(f"{MOUNT}/{source}"))
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r") as archive:
            for member in archive.getmembers():
                _extract(archive, member, folder)

    def read(self, source: str) -> bytes:
        """One file on the claim."""
        return self._python(f"import sys; sys.stdout.buffer.write(open({f'{MOUNT}/{source}'!r}, 'rb').read())")

    def remove(self, pattern: str) -> None:
        """Remove the folders that match a glob pattern on the claim."""
        self._python(_WIPE.format(f"{MOUNT}/{pattern}"))

    def _python(self, program: str, stdin: bytes | None = None) -> bytes:
        flags = [] if stdin is None else ["-i"]
        return self._cluster.run("exec", *flags, self._name, "--", "python3", "-c", program, stdin=stdin)

    def _ready(self) -> bool:
        return is_true(self._cluster.get("pod", self._name), "Ready")

    def _seen(self) -> str:
        return self._cluster.run("describe", "pod", self._name).decode(errors="replace")[-2000:]


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one plain file below the folder. By hand: the `filter` of extractall is missing in Debian 12's Python."""
    path = PurePosixPath(member.name)
    if member.isfile() and not path.is_absolute() and ".." not in path.parts:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(member)
        target.write_bytes(content.read() if content else b"")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owner and times say nothing to the pod, and it could not set them."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o777 if member.isdir() else 0o644
    return member

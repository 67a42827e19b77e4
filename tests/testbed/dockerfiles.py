"""Builds the project's Dockerfiles with buildah on the bed's base image, and loads them into the bed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import IO

from testbed import host, kernel, oci
from testbed.containerd import Ctr
from testbed.errors import BuildFailedError
from testbed.images import REGISTRY, BuiltImage, ImageStore, key, remove_older
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import BUILDER_PACKAGES

CHECKOUT = Path(__file__).resolve().parents[2]
_METADATA = ("pyproject.toml", "uv.lock", "README.md", "LICENSE")
_CERTIFICATES = "/etc/ssl/certs"
_BUILD_SECONDS = 3600
_STREAM_END_SECONDS = 60


@dataclass(frozen=True)
class Dockerfile:
    """One of our images: its Dockerfile and what it copies."""

    name: str
    path: str
    sources: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    """Build arguments besides the base image, as NAME=value."""
    large: bool = False
    """Whether a copy more would fill the disk: it goes from the builder into containerd with no archive between."""


OPERATOR = Dockerfile("operator", "operator/Dockerfile", ("operator/rlhf_operator",))
TRAINER = Dockerfile(
    "trainer",
    "trainer-image/Dockerfile",
    ("operator/rlhf_operator", "trainer-image/rlhf_trainer", "trainer-image/rlhf_scoring"),
    large=True,
)
SERVER = Dockerfile(
    "server",
    "server-image/Dockerfile",
    ("operator/rlhf_operator", "trainer-image/rlhf_scoring", "server-image/rlhf_server"),
    # The bed's node has no GPU.
    ("EXTRA=server-cpu",),
    large=True,
)


def content_key(dockerfile: Dockerfile, base: str, checkout: Path = CHECKOUT) -> str:
    """Names what goes into the image: the same content is never built twice."""
    files = [checkout / dockerfile.path, *(checkout / name for name in _METADATA)]
    for source in dockerfile.sources:
        found = sorted((checkout / source).rglob("*"))
        files += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    parts = [base, *dockerfile.arguments]
    for path in files:
        parts += [str(path.relative_to(checkout)), hashlib.sha256(path.read_bytes()).hexdigest()]
    return key(*parts)


class Builder:
    """Runs buildah with its own storage in the cache; needs root, but no daemon."""

    def __init__(self, paths: Paths, progress: Progress) -> None:
        self._paths = paths
        self._progress = progress
        self._ctr = Ctr(paths)

    def load(self, dockerfile: Dockerfile) -> str:
        """Build unless this very content has been built, and import into the running bed; the image's name for pods.

        Raises BuildFailedError with the builder's last words.
        """
        host.require_root()
        base = ImageStore(self._paths, self._progress).base()
        tag = content_key(dockerfile, base.name)
        image = BuiltImage(f"{REGISTRY}/{dockerfile.name}:{tag}", self._paths.images / f"{dockerfile.name}-{tag}.tar")
        if not self._made(dockerfile, image):
            host.require_packages(BUILDER_PACKAGES, self._progress)
            store = _Store(self._paths, dockerfile)
            with store.alone():
                # Whoever had the lock before may have built just this.
                if not self._made(dockerfile, image):
                    self._build(dockerfile, store, base, image)
        if not dockerfile.large:
            self._ctr.import_images([image], self._progress)
        return image.name

    def unload(self, name: str) -> None:
        """Take a large image out of containerd: what built it keeps its layers."""
        self._ctr.remove_image(name)

    def _made(self, dockerfile: Dockerfile, image: BuiltImage) -> bool:
        return self._ctr.has(image.name) if dockerfile.large else image.archive.exists()

    def _build(self, dockerfile: Dockerfile, store: _Store, base: BuiltImage, image: BuiltImage) -> None:
        say, started = self._progress.say, self._progress.elapsed_seconds
        say(f"building {dockerfile.path}")
        store.build(dockerfile, base, image)
        say(f"built {dockerfile.path} in {self._progress.elapsed_seconds - started:.0f} s")
        started = self._progress.elapsed_seconds
        if dockerfile.large:
            with store.stream(image) as archive:
                self._ctr.import_stream(image.name, archive)
            say(f"imported {image.name} in {self._progress.elapsed_seconds - started:.0f} s")
        else:
            store.write(image)
            remove_older(image)
        store.remove_older(image)


class _Store:
    """The builder's layers. A large image has a storage of its own, so that the others' builds don't wait for it."""

    def __init__(self, paths: Paths, dockerfile: Dockerfile) -> None:
        self._folder = paths.root / (f"buildah-{dockerfile.name}" if dockerfile.large else "buildah")
        self._head = [shutil.which("buildah") or "/usr/bin/buildah", "--storage-driver", "overlay"]
        self._head += ["--root", str(self._folder / "root"), "--runroot", str(self._folder / "run")]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One at a time: the end of one unmounts the storage."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                kernel.unmount([self._folder])

    def build(self, dockerfile: Dockerfile, base: BuiltImage, image: BuiltImage) -> None:
        """Layers that are there are taken as they are."""
        if base.name not in self._names():
            pulled = self._run("pull", "-q", f"oci-archive:{base.archive}").strip()
            self._run("tag", pulled, base.name)
        options = ["--isolation", "chroot", "--network", "host", "--layers", "--pull-never"]
        # A proxy's own authority is among the host's certificates.
        options += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro", "--build-arg", f"BASE_IMAGE={base.name}"]
        options += [part for argument in dockerfile.arguments for part in ("--build-arg", argument)]
        self._run("bud", *options, "-f", str(CHECKOUT / dockerfile.path), "-t", image.name, str(CHECKOUT))

    def write(self, image: BuiltImage) -> None:
        """Write the archive in one step."""
        draft = image.archive.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        # Docker's format is not compressed: compressing takes longer than the rest of a rebuild.
        self._run("push", "-q", image.name, f"docker-archive:{draft}:{image.name}")
        os.replace(draft, image.archive)

    @contextmanager
    def stream(self, image: BuiltImage) -> Iterator[IO[bytes]]:
        """The archive as it is written, and nowhere kept. Raises BuildFailedError when it was not whole."""
        command = [*self._head, "push", "-q", image.name, f"docker-archive:/dev/stdout:{image.name}"]
        with tempfile.TemporaryFile() as errors, subprocess.Popen(command, stdout=PIPE, stderr=errors) as pushing:
            assert pushing.stdout is not None
            yield pushing.stdout
            pushing.stdout.close()
            if pushing.wait(_STREAM_END_SECONDS) != 0:
                errors.seek(0)
                words = errors.read().decode(errors="replace")[-2000:]
                raise BuildFailedError(f"`{' '.join(command)}` ended with {pushing.returncode}:\n{words}")

    def remove_older(self, image: BuiltImage) -> None:
        """Remove images of the same name that were made from other content."""
        repository = image.name.rpartition(":")[0]
        for old in self._names():
            if old.startswith(f"{repository}:") and old != image.name:
                self._run("rmi", old)

    def _names(self) -> list[str]:
        return self._run("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def _run(self, *arguments: str) -> str:
        return oci.run([*self._head, *arguments], timeout_seconds=_BUILD_SECONDS)

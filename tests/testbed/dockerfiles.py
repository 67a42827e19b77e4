"""Builds the project's Dockerfiles with buildah on the bed's base image, and loads them into the bed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import host, kernel, oci
from testbed.containerd import Ctr
from testbed.images import REGISTRY, BuiltImage, ImageStore, key, remove_older
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import BUILDER_PACKAGES

CHECKOUT = Path(__file__).resolve().parents[2]
_METADATA = ("pyproject.toml", "uv.lock", "README.md", "LICENSE")
_CERTIFICATES = "/etc/ssl/certs"


@dataclass(frozen=True)
class Dockerfile:
    """One of our images: its Dockerfile and what it copies."""

    name: str
    path: str
    sources: tuple[str, ...]


OPERATOR = Dockerfile("operator", "operator/Dockerfile", ("operator/rlhf_operator",))
TRAINER = Dockerfile(
    "trainer",
    "trainer-image/Dockerfile",
    ("operator/rlhf_operator", "trainer-image/rlhf_trainer", "trainer-image/rlhf_scoring"),
)
SERVER = Dockerfile(
    "server",
    "server-image/Dockerfile",
    ("operator/rlhf_operator", "trainer-image/rlhf_scoring", "server-image/rlhf_server"),
)


def content_key(dockerfile: Dockerfile, base: str, checkout: Path = CHECKOUT) -> str:
    """Names what goes into the image: the same content is never built twice."""
    files = [checkout / dockerfile.path, *(checkout / name for name in _METADATA)]
    for source in dockerfile.sources:
        found = sorted((checkout / source).rglob("*"))
        files += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    parts = [base]
    for path in files:
        parts += [str(path.relative_to(checkout)), hashlib.sha256(path.read_bytes()).hexdigest()]
    return key(*parts)


class Builder:
    """Runs buildah with its own storage in the cache; needs root, but no daemon."""

    def __init__(self, paths: Paths, progress: Progress) -> None:
        self._paths = paths
        self._progress = progress
        self._storage = paths.root / "buildah"

    def build(self, dockerfile: Dockerfile) -> BuiltImage:
        """Build unless this very content has been built. Raises BuildFailedError with the builder's last words."""
        host.require_root()
        base = ImageStore(self._paths, self._progress).base()
        tag = content_key(dockerfile, base.name)
        image = BuiltImage(f"{REGISTRY}/{dockerfile.name}:{tag}", self._archive(dockerfile.name, tag))
        if image.archive.exists():
            return image
        host.require_packages(BUILDER_PACKAGES, self._progress)
        with self._alone():
            # Whoever had the lock before may have built just this.
            if image.archive.exists():
                return image
            self._progress.say(f"building {dockerfile.path}")
            started = self._progress.elapsed_seconds
            try:
                self._buildah(dockerfile, base, image)
            finally:
                kernel.unmount([self._storage])
            self._progress.say(f"built {dockerfile.path} in {self._progress.elapsed_seconds - started:.0f} s")
        return image

    def load(self, dockerfile: Dockerfile) -> str:
        """Build and import into the running bed; returns the image's name for pods."""
        image = self.build(dockerfile)
        Ctr(self._paths).import_images([image], self._progress)
        return image.name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One build at a time: they share a storage, and the end of one unmounts it."""
        self._storage.parent.mkdir(parents=True, exist_ok=True)
        with self._storage.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _archive(self, name: str, tag: str) -> Path:
        return self._paths.images / f"{name}-{tag}.tar"

    def _buildah(self, dockerfile: Dockerfile, base: BuiltImage, image: BuiltImage) -> None:
        self._storage.mkdir(parents=True, exist_ok=True)
        head = [shutil.which("buildah") or "/usr/bin/buildah", "--storage-driver", "overlay"]
        head += ["--root", str(self._storage / "root"), "--runroot", str(self._storage / "run")]
        if base.name not in oci.run([*head, "images", "--format", "{{.Name}}:{{.Tag}}"]).split():
            pulled = oci.run([*head, "pull", "-q", f"oci-archive:{base.archive}"]).strip()
            oci.run([*head, "tag", pulled, base.name])
        options = ["--isolation", "chroot", "--network", "host", "--layers", "--pull-never"]
        # A proxy's own authority is among the host's certificates.
        options += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro", "--build-arg", f"BASE_IMAGE={base.name}"]
        command = [*head, "bud", *options, "-f", str(CHECKOUT / dockerfile.path), "-t", image.name, str(CHECKOUT)]
        oci.run(command, timeout_seconds=3600)
        draft = image.archive.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        # Docker's format is not compressed: compressing takes longer than the rest of a rebuild.
        oci.run([*head, "push", "-q", image.name, f"docker-archive:{draft}:{image.name}"])
        os.replace(draft, image.archive)
        remove_older(image)
        repository = image.name.rpartition(":")[0]
        listed = oci.run([*head, "images", "--format", "{{.Name}}:{{.Tag}}"]).split()
        for old in (name for name in listed if name.startswith(f"{repository}:") and name != image.name):
            oci.run([*head, "rmi", old])

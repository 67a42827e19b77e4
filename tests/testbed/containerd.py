"""The bed's own containerd: configuration, images, and the end of its containers. Debian's service is not used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from testbed import oci
from testbed.errors import BedError
from testbed.images import REGISTRY, BuiltImage
from testbed.paths import Paths
from testbed.progress import Progress

NETWORK = "rlhf-testbed"
BRIDGE = "rlhf-cni0"
_CNI_BINARIES = ("/usr/lib/cni", "/opt/cni/bin")
_NAMESPACE = "k8s.io"
_TIMEOUT_SECONDS = 300
# The trainer's 6 GB are hashed and unpacked: five minutes and more on a busy machine.
_IMPORT_TIMEOUT_SECONDS = 1800


def cni_folder() -> Path:
    """Where the CNI plugins are. Raises BedError when they are nowhere."""
    for folder in _CNI_BINARIES:
        if Path(folder, "bridge").exists():
            return Path(folder)
    raise BedError(f"no CNI plugins in {' or '.join(_CNI_BINARIES)}; install containernetworking-plugins")


def write_config(paths: Paths, pause_image: str, pod_cidr: str) -> Path:
    """Write the configuration (version 2, which 1.6 to 2.x read) and the CNI network's; returns the former."""
    network = paths.bed / "cni" / "net.d"
    network.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(paths.bed / "cni" / "addresses"),
            "ranges": [[{"subnet": pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    conflist = {"cniVersion": "0.4.0", "name": NETWORK, "plugins": [bridge]}
    (network / "10-bridge.conflist").write_text(json.dumps(conflist, indent=1))
    path = paths.bed / "containerd.toml"
    path.write_text(
        f"""version = 2
root = {_toml(paths.containerd)}
state = {_toml(paths.run / "containerd")}
[grpc]
  address = {_toml(paths.containerd_socket)}
[plugins."io.containerd.internal.v1.opt"]
  path = {_toml(paths.containerd / "opt")}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {_toml(pause_image)}
  netns_mounts_under_state_dir = true
  # Where the bed itself runs in a container, lower scores than its own may not be set: every sandbox would fail.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {_toml(cni_folder())}
    conf_dir = {_toml(network)}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
    )
    return path


def _toml(value: object) -> str:
    return json.dumps(str(value))


class Ctr:
    """Containerd's client against the bed's socket."""

    def __init__(self, paths: Paths) -> None:
        self._head = [shutil.which("ctr") or "/usr/bin/ctr", "-a", str(paths.containerd_socket), "-n", _NAMESPACE]

    def run(self, *arguments: str, timeout_seconds: float = _TIMEOUT_SECONDS) -> str:
        """Its output. Raises BuildFailedError with what it said."""
        return oci.run([*self._head, *arguments], timeout_seconds=timeout_seconds)

    def answers(self) -> bool:
        """Whether containerd serves."""
        done = subprocess.run([*self._head, "version"], capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    def import_images(self, images: Sequence[BuiltImage], progress: Progress) -> None:
        """Import archives whose names are not there yet (names hold the content's key)."""
        present = set(self.run("images", "list", "-q").split())
        for image in images:
            if image.name not in present:
                with image.archive.open("rb") as archive:
                    self.import_stream(image.name, archive)
                progress.say(f"imported {image.name}")

    def import_stream(self, name: str, archive: IO[bytes]) -> None:
        """Import an archive while it is read. Raises BuildFailedError."""
        try:
            oci.run([*self._head, "images", "import", "-"], timeout_seconds=_IMPORT_TIMEOUT_SECONDS, stdin=archive)
        except BaseException:
            # The name is there before all is unpacked: it would pass for an image, and no container start.
            self.remove_image(name)
            raise

    def has(self, name: str) -> bool:
        """Whether an image is there."""
        return name in self.run("images", "list", "-q").split()

    def remove_image(self, name: str) -> None:
        """Take an image out, under both its names, and what it was made of."""
        listed = self.run("images", "list")
        if names := both_names(listed, name):
            self._best_effort("images", "remove", "--sync", *names)

    def remove_containers(self) -> None:
        """Force the end of every task and forget every container."""
        if tasks := self.run("tasks", "list", "-q").split():
            self._best_effort("tasks", "delete", "-f", *tasks)
        if containers := self.run("containers", "list", "-q").split():
            self._best_effort("containers", "delete", *containers)

    def remove_images_except(self, kept: Sequence[Path]) -> None:
        """Forget our images whose archives are gone (`kept` are those that are there). Only while no container runs."""
        if names := superseded(self.run("images", "list"), {path.name.removesuffix(".tar") for path in kept}):
            self._best_effort("images", "remove", "--sync", *names)
        # An import that was cut off keeps what it had for a day.
        for lease in self.run("leases", "list", "-q").split():
            self._best_effort("leases", "delete", "--sync", lease)

    def _best_effort(self, *arguments: str) -> None:
        """One that ended by itself meanwhile is an error to ctr, not to us."""
        subprocess.run([*self._head, *arguments], capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)


def superseded(listed: str, kept: set[str]) -> list[str]:
    """Images that nobody needs, of `ctr images list`: ours that are not among `kept` (`name-tag`).

    CRI gives every image a second name, of its configuration's digest, which would keep the content for ever.
    """
    digests = _digests(listed)
    prefix = f"{REGISTRY}/"
    named = {name for name in digests if not name.startswith("sha256:")}
    gone = {name for name in named if name.startswith(prefix) and name[len(prefix) :].replace(":", "-") not in kept}
    needed = {digests[name] for name in named - gone}
    return sorted(gone | {name for name in digests.keys() - named if digests[name] not in needed})


def both_names(listed: str, name: str) -> list[str]:
    """An image's names in `ctr images list`: its own, and CRI's unless another image has the same content."""
    digests = _digests(listed)
    same = [each for each, digest in digests.items() if name in digests and digest == digests[name]]
    shared = any(each != name and not each.startswith("sha256:") for each in same)
    return [each for each in same if each == name or (each.startswith("sha256:") and not shared)]


def _digests(listed: str) -> dict[str, str]:
    rows = [line.split() for line in listed.splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2}


def shims(paths: Paths) -> list[int]:
    """The pids of container shims that serve our containerd, known by its socket in their arguments."""
    socket = str(paths.containerd_socket)
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            arguments = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "containerd-shim" in arguments[0] and socket in arguments:
            found.append(int(entry))
    return found

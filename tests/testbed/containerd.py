"""The bed's own containerd: configuration, images, and the end of its containers. Debian's service is not used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

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

    def run(self, *arguments: str) -> str:
        """Its output. Raises BuildFailedError with what it said."""
        return oci.run([*self._head, *arguments], timeout_seconds=_TIMEOUT_SECONDS)

    def answers(self) -> bool:
        """Whether containerd serves."""
        done = subprocess.run([*self._head, "version"], capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    def import_images(self, images: Sequence[BuiltImage], progress: Progress) -> None:
        """Import archives whose names are not there yet (names hold the content's key)."""
        present = set(self.run("images", "list", "-q").split())
        for image in images:
            if image.name not in present:
                self.run("images", "import", str(image.archive))
                progress.say(f"imported {image.name}")

    def remove_containers(self) -> None:
        """Force the end of every task and forget every container."""
        if tasks := self.run("tasks", "list", "-q").split():
            self._best_effort("tasks", "delete", "-f", *tasks)
        if containers := self.run("containers", "list", "-q").split():
            self._best_effort("containers", "delete", *containers)

    def remove_images_except(self, kept: Sequence[Path]) -> None:
        """Forget our images whose archives are gone (`kept` are those that are there). Only while no container runs."""
        stems = {path.name.removesuffix(".tar") for path in kept}
        for name in self.run("images", "list", "-q").split():
            short = name.removeprefix(f"{REGISTRY}/")
            if short != name and short.replace(":", "-") not in stems:
                self._best_effort("images", "remove", name)

    def _best_effort(self, *arguments: str) -> None:
        """One that ended by itself meanwhile is an error to ctr, not to us."""
        subprocess.run([*self._head, *arguments], capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)


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

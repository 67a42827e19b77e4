"""A machine in a box for tests that take a whole node down: namespaces and cgroups of its own on this host.

The box has its own network, mounts, processes and cgroup tree, so that what a node leaves behind can be counted and no
other node on the host is met. Root and cgroup v1 only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
_OWN_FOLDERS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers")
_ADDRESS = "192.0.2.77/24"  # documentation range: nothing outside answers to it


def available() -> bool:
    """Whether this host lets us make a box."""
    return os.geteuid() == 0 and all((CGROUPS / name / "cgroup.procs").exists() for name in _CONTROLLERS)


def run(
    command: Sequence[str], environment: dict[str, str], timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh box; everything in it ends with it."""
    name = f"testbed-box-{uuid.uuid4().hex[:8]}"
    for controller in _CONTROLLERS:
        (CGROUPS / controller / name).mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):
        (CGROUPS / "cpuset" / name / file).write_text((CGROUPS / "cpuset" / file).read_text())
    try:
        return subprocess.run(
            [sys.executable, __file__, "enter", name, *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    finally:
        for controller in _CONTROLLERS:
            folders = [path for path in (CGROUPS / controller / name).rglob("*") if path.is_dir()]
            for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
                folder.rmdir()
            (CGROUPS / controller / name).rmdir()


def _enter(name: str, command: Sequence[str]) -> None:
    """Join the box's cgroups, then go on in namespaces of its own."""
    for controller in _CONTROLLERS:
        (CGROUPS / controller / name / "cgroup.procs").write_text(str(os.getpid()))
    spaces = ["--cgroup", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *spaces, sys.executable, __file__, "inside", *command])  # noqa: S606 - that is the point


def _inside(command: Sequence[str]) -> None:
    """Set up mounts and network, then become the command."""
    _do("mount", "--make-rprivate", "/")
    _do("mount", "-t", "sysfs", "sysfs", "/sys")
    _do("mount", "-t", "tmpfs", "tmpfs", str(CGROUPS))
    for controller in _CONTROLLERS:
        (CGROUPS / controller).mkdir()
        option = "none,name=systemd" if controller == "systemd" else controller
        _do("mount", "-t", "cgroup", "-o", option, "cgroup", str(CGROUPS / controller))
    for folder in _OWN_FOLDERS:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _do("mount", "-t", "tmpfs", "tmpfs", folder)
    _do("ip", "link", "set", "lo", "up")
    # One end is the host's address; the other stays here and leads nowhere.
    _do("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "nowhere")
    _do("ip", "address", "add", _ADDRESS, "dev", "eth0")
    _do("ip", "link", "set", "eth0", "up")
    _do("ip", "link", "set", "nowhere", "up")
    # Cluster addresses are translated after a route to them is found: any will do, but there must be one.
    _do("ip", "route", "add", "default", "dev", "eth0")
    os.execvp(command[0], list(command))  # noqa: S606 - that is the point


def _do(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["enter", name, *command]:
            _enter(name, command)
        case ["inside", *command]:
            _inside(command)

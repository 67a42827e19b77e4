"""Takes a bed down and brings it up again: nothing stays behind, neither of a healthy bed nor of a crash.

Run by test_teardown.py, in a box of its own where that can be, so that the shared bed goes on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import testbed
from testbed import bed as beds
from testbed import containerd, kernel, podenv
from testbed.bed import Bed
from testbed.paths import Paths
from testbed.processes import Daemons, alive
from testbed.progress import Progress, wait_until
from testbed.state import Profile


def _command_lines() -> dict[int, str]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def _left(paths: Paths) -> list[str]:
    """What a bed would leave behind, in words."""
    words = [f"process {pid}: {line}" for pid, line in _command_lines().items() if str(paths.bed) in line]
    mounts = kernel.mounts_below([paths.bed, paths.containerd], Path("/proc/self/mounts").read_text())
    words += [f"mount {point}" for point in mounts]
    words += [
        f"link {name}" for name in os.listdir("/sys/class/net") if name == containerd.BRIDGE or name[:4] == "veth"
    ]
    for command in ("iptables-save", "ip6tables-save"):
        rules = subprocess.run([command], capture_output=True, text=True, timeout=60, check=True).stdout
        words += [line for line in rules.splitlines() if "KUBE-" in line or containerd.NETWORK in line]
    words += [f"cgroup {path}" for path in kernel._kubepods(Path("/sys/fs/cgroup"))]
    links = Path("/var/log/containers")
    words += [str(link) for link in (links.iterdir() if links.is_dir() else ()) if str(paths.bed) in os.readlink(link)]
    return words


def _sleeper(bed: Bed, name: str) -> None:
    """A running pod that would outlive a careless teardown: PID 1 ignores SIGTERM."""
    pod = podenv.pod_environment(bed.paths).pod(name, ["sleep", "86399"])
    bed.kubectl.apply([pod])
    bed.kubectl.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def test_down_leaves_nothing_behind_and_touches_nobody_else() -> None:
    bed = testbed.ensure(Profile.NODE, gateway=False)
    forward = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    assert forward.strip() == "1"
    _sleeper(bed, "sleeper")
    assert _left(bed.paths)
    # A process that looks like one of ours to a careless pattern.
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "kubelet"]) as bystander:
        try:
            beds.down()
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert _left(bed.paths) == []
    assert not bed.paths.bed.exists()
    assert not any("sleep 86399" in line for line in _command_lines().values())


def test_up_after_a_crash_of_everything_cleans_first() -> None:
    bed = testbed.ensure(Profile.NODE, gateway=False)
    _sleeper(bed, "crashed")
    records = Daemons(bed.paths.daemons, bed.paths.logs).records()
    for record in records:
        os.kill(record.pid, signal.SIGKILL)
    wait_until("the daemons' end", lambda: not any(alive(record) for record in records), 10)
    assert any("sleep 86399" in line for line in _command_lines().values())
    again = testbed.ensure(Profile.NODE, gateway=False)
    assert not any("sleep 86399" in line for line in _command_lines().values())
    assert "crashed" not in again.kubectl.run("get", "pods", "-o", "name")
    _sleeper(again, "after")
    again.kubectl.run("delete", "pod", "after", "--now")


def test_a_node_whose_kubelet_died_is_mended_and_the_control_plane_goes_on() -> None:
    bed = testbed.ensure(Profile.NODE, gateway=False)
    daemons = Daemons(bed.paths.daemons, bed.paths.logs)
    apiserver, kubelet = daemons.get("kube-apiserver"), daemons.get("kubelet")
    assert apiserver is not None
    assert kubelet is not None
    bed.kubectl.run("create", "configmap", "kept", "--dry-run=none")
    os.kill(kubelet.pid, signal.SIGKILL)
    wait_until("the kubelet's end", lambda: not alive(kubelet), 10)
    again = testbed.ensure(Profile.NODE, gateway=False)
    assert alive(apiserver)
    again.kubectl.run("delete", "configmap", "kept")
    _sleeper(again, "mended")
    again.kubectl.run("delete", "pod", "mended", "--now")


def test_up_when_up_is_instant() -> None:
    testbed.ensure(Profile.NODE, gateway=False)
    progress = Progress()
    testbed.ensure(Profile.NODE, progress, gateway=False)
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    assert busy or progress.elapsed_seconds < 3
    assert shutil.which("conntrack")

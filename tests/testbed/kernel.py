"""What a node leaves in the kernel, found and removed: pod processes, mounts, network, iptables chains, cgroups."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from testbed.containerd import BRIDGE, NETWORK
from testbed.controlplane import POD_CIDR

_CGROUPS = Path("/sys/fs/cgroup")
_TIMEOUT_SECONDS = 60
_TABLES = ("nat", "filter", "mangle")


def pod_uids(kubelet_root: Path) -> set[str]:
    """The pods that this bed's kubelet knows: it keeps one folder each."""
    pods = kubelet_root / "pods"
    return {entry.name for entry in pods.iterdir()} if pods.is_dir() else set()


def pod_cgroups(uids: Iterable[str], root: Path = _CGROUPS) -> list[Path]:
    """The cgroup folders of these pods, in every hierarchy."""
    wanted = {f"pod{uid}" for uid in uids}
    return [path for path in kubepods(root) if path.name in wanted]


def kill_pods(uids: Iterable[str], root: Path = _CGROUPS) -> int:
    """SIGKILL what runs in these pods' cgroups; returns how many processes that were."""
    killed: set[int] = set()
    for cgroup in pod_cgroups(uids, root):
        for folder, _, _ in os.walk(cgroup):
            with contextlib.suppress(OSError):
                for word in (Path(folder) / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(word), signal.SIGKILL)
                        killed.add(int(word))
    return len(killed)


def remove_pod_cgroups(root: Path = _CGROUPS) -> None:
    """Remove kubelet's cgroups, deepest first; one that still holds a process stays."""
    for path in sorted(kubepods(root), key=lambda p: len(p.parts), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()


def kubepods(root: Path = _CGROUPS) -> Iterator[Path]:
    """Every cgroup folder from kubelet's own down, in every hierarchy."""
    for top in [root / "kubepods", *root.glob("*/kubepods")]:
        if top.is_dir() and not top.is_symlink():
            # os.walk passes over what a dying shim removes meanwhile; rglob raises.
            yield from (Path(folder) for folder, _, _ in os.walk(top))


def mounts_below(folders: Iterable[Path], table: str) -> list[str]:
    """Mount points below the folders, innermost first. `table` is /proc/self/mounts' text."""
    prefixes = tuple(f"{folder}/" for folder in folders)
    points = [_unescape(line.split(" ")[1]) for line in table.splitlines() if line]
    return sorted((point for point in points if point.startswith(prefixes)), reverse=True)


def _unescape(field: str) -> str:
    """The mount table writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def unmount(folders: Iterable[Path]) -> None:
    """Unmount everything below the folders (lazily: a dying process may still sit there)."""
    for point in mounts_below(list(folders), Path("/proc/self/mounts").read_text()):
        subprocess.run(["umount", "-l", point], capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)


def remove_network() -> None:
    """Remove the bed's bridge and the host's ends of its pods' cables."""
    bridge = Path("/sys/class/net") / BRIDGE
    if not bridge.exists():
        return
    members = [entry.name for entry in (bridge / "brif").iterdir()]
    for name in [*members, BRIDGE]:
        subprocess.run(["ip", "link", "delete", name], capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
    # Entries of pods that are gone would catch packets of new ones with the same address.
    if shutil.which("conntrack"):
        subprocess.run(["conntrack", "-D", "-s", POD_CIDR], capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)


def remove_rules() -> None:
    """Remove kube-proxy's and kubelet's chains, and the CNI chains of the bed's network; nobody else's."""
    for command in ("iptables", "ip6tables"):
        save, restore = shutil.which(f"{command}-save"), shutil.which(f"{command}-restore")
        if save is None or restore is None:
            continue
        for table in _TABLES:
            saved = subprocess.run(
                [save, "-t", table], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
            script = removal_script(table, saved.stdout)
            if script:
                subprocess.run(
                    [restore, "--noflush", "-w", "10"],
                    input=script,
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT_SECONDS,
                    check=False,
                )


def removal_script(table: str, saved: str) -> str:
    """Input for `iptables-restore --noflush` that takes our chains out of a table; empty when there are none."""
    chains = re.findall(r"^:((?:KUBE|CNI)-\S+)", saved, flags=re.MULTILINE)
    rules = re.findall(r"^-A (\S+) (.*)$", saved, flags=re.MULTILINE)
    cni = {m[1] for _, rule in rules if f'"{NETWORK}\\"' in rule and (m := re.search(r"-j (CNI-\S+)", rule))}
    ours = [chain for chain in chains if chain.startswith("KUBE-") or chain in cni]
    if not ours:
        return ""
    flush = [f":{chain} - [0:0]" for chain in ours]
    jumps = [
        f"-D {chain} {rule}"
        for chain, rule in rules
        if chain not in ours and (m := re.search(r"-[jg] (\S+)", rule)) and m[1] in ours
    ]
    return "\n".join([f"*{table}", *flush, *jumps, *(f"-X {chain}" for chain in ours), "COMMIT", ""])


def remove_files_elsewhere(root: Path = Path("/")) -> None:
    """Remove what the network plugins and kubelet keep at fixed places outside the bed's folder."""
    results = root / "var/lib/cni/results"
    for ours in list(results.glob(f"{NETWORK}-*-eth0")):
        container = ours.name.removeprefix(f"{NETWORK}-").removesuffix("-eth0")
        (results / f"cni-loopback-{container}-lo").unlink(missing_ok=True)
        ours.unlink(missing_ok=True)
    plugins = root / "var/lib/kubelet/device-plugins"
    for name in ("kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"):
        (plugins / name).unlink(missing_ok=True)
    for folder in (plugins, plugins.parent, results, results.parent):
        # Only where nobody else keeps anything there.
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove_log_links(logs: Path, links: Path = Path("/var/log/containers")) -> None:
    """Remove the links that kubelet makes outside its own folders and that point into this bed's logs."""
    if links.is_dir():
        for link in links.iterdir():
            if link.is_symlink() and os.readlink(link).startswith(f"{logs}/"):
                link.unlink()

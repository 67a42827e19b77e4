"""What the host must bring for a node: root, Debian packages, kernel settings. Settings are put back by `down`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import BedError, NotRootError
from testbed.oci import run
from testbed.progress import Progress

_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
}
_MODULES = ("overlay", "br_netfilter")
_NO_SERVICES = "#!/bin/sh\n# The test bed installs packages for their binaries only: no service may start.\nexit 101\n"


def require_root() -> None:
    """Raise NotRootError unless this process is root."""
    if os.geteuid() != 0:
        raise NotRootError


def require_packages(packages: Mapping[str, str], progress: Progress, root: Path = Path("/")) -> None:
    """Install what is missing (package → a file it brings) with apt. No service of theirs is started or left enabled.

    Raises BedError naming the packages where there is no apt.
    """
    missing = [name for name, path in packages.items() if not _present(root, path)]
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise BedError(f"install these with your package manager, then run this again: {names}")
    progress.say(f"installing system packages: {names}")
    env = ["env", "DEBIAN_FRONTEND=noninteractive"]
    with _services_held(root / "usr/sbin/policy-rc.d"):
        run([*env, "apt-get", "update", "-q"])
        run([*env, "apt-get", "install", "-y", "-q", "--no-install-recommends", *missing])
    if "containerd" in missing and Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "disable", "containerd"], capture_output=True, timeout=60, check=False)


def _present(root: Path, path: str) -> bool:
    """Whether the file is there, or a command of its name where another distribution keeps it."""
    if (root / path.lstrip("/")).exists():
        return True
    # A plug-in is no command: `bridge` on PATH would be iproute2's.
    return Path(path).parent.name in ("bin", "sbin") and shutil.which(Path(path).name) is not None


@contextmanager
def _services_held(policy: Path) -> Iterator[None]:
    """While inside, Debian's packages don't start their services."""
    if policy.exists():
        yield
        return
    policy.write_text(_NO_SERVICES)
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def set_kernel(saved: Path, proc: Path = Path("/proc/sys")) -> None:
    """Set the kernel settings that pods need; the old values go to `saved` for `restore_kernel`."""
    for module in _MODULES:
        # Built into many kernels; what is truly missing shows below.
        if modprobe := shutil.which("modprobe"):
            subprocess.run([modprobe, module], capture_output=True, timeout=60, check=False)
    before: dict[str, str] = {}
    for name, value in _SYSCTLS.items():
        path = proc / name
        if not path.exists():
            setting = name.replace("/", ".")
            raise BedError(f"the kernel has no setting {setting}; load its module (modprobe br_netfilter)")
        before[name] = path.read_text().strip()
        if before[name] != value:
            path.write_text(value)
    if not saved.exists():
        saved.write_text(json.dumps(before))


def restore_kernel(saved: Path, proc: Path = Path("/proc/sys")) -> None:
    """Put back what `set_kernel` changed."""
    if not saved.exists():
        return
    for name, value in json.loads(saved.read_text()).items():
        path = proc / name
        if name in _SYSCTLS and path.exists() and path.read_text().strip() != value:
            path.write_text(str(value))

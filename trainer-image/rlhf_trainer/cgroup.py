"""Whether the kernel killed a process of this container for memory: the cgroup's own counters, version 1 and 2."""

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def oom_kills(root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """How often the kernel has killed for memory in this cgroup so far; None where no counter can be read."""
    for path in _candidates(root, own):
        try:
            text = path.read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return None


def memory_limit_bytes(root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The container's memory limit in bytes; None where there is none."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        for folder in _folders(root, own):
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue
            # Version 1 says "no limit" as the largest page-aligned number.
            return int(text) if text.isdigit() and int(text) < 1 << 62 else None
    return None


def _candidates(root: Path, own: Path) -> list[Path]:
    return [folder / name for folder in _folders(root, own) for name in ("memory.events", "memory.oom_control")]


def _folders(root: Path, own: Path) -> list[Path]:
    """Where this process's memory cgroup may be mounted: by its path (host's view), or as the root (container's)."""
    found = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        relative = path.lstrip("/")
        if controllers == "":
            found.append(root / relative)
        elif "memory" in controllers.split(","):
            found.append(root / "memory" / relative)
    return [*found, root, root / "memory"]

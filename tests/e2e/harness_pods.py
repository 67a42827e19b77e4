"""What is done to running pods: kill, stop, evict, by exec and by the API. Nothing here reads status."""

from __future__ import annotations

from e2e.harness import Space

_KILL_ALL = "import os, signal; os.kill(-1, signal.SIGKILL)"


def run_in(space: Space, pod: str, program: str) -> str:
    """Run a Python program in the container `trainer`; returns what it printed."""
    return space.cluster.run("exec", pod, "-c", "trainer", "--", "python3", "-c", program).decode(errors="replace")


def kill_all(space: Space, pod: str) -> None:
    """SIGKILL every process of the container but its first, which its own PID namespace protects from that."""
    run_in(space, pod, _KILL_ALL)

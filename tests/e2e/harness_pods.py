"""What is done to running pods: kill, stop, evict, by exec and by the API; pods that run a script of a test's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from demo import users
from e2e.harness import Space

_KILL_ALL = "import os, signal; os.kill(-1, signal.SIGKILL)"
_ASK_TO_STOP = "import os, signal; os.kill(1, signal.SIGTERM)"
_RANKS = """
import json, os, pathlib
found = []
for path in pathlib.Path('/proc').iterdir():
    if path.name.isdigit() and path.name != str(os.getpid()):
        try:
            words = (path / 'cmdline').read_bytes().split(b'\\0')
            parent = int((path / 'stat').read_text().rpartition(')')[2].split()[1])
        except OSError:
            continue
        if parent == 1 and b'rlhf_trainer' in words and b'run' in words:
            found.append(int(path.name))
print(json.dumps(found))
"""
_SIGNAL = "import os, signal; [os.kill(pid, signal.{name}) for pid in {pids}]"


def run_in(space: Space, pod: str, program: str) -> str:
    """Run a Python program in the container `trainer`; returns what it printed."""
    return space.cluster.run("exec", pod, "-c", "trainer", "--", "python3", "-c", program).decode(errors="replace")


def kill_all(space: Space, pod: str) -> None:
    """SIGKILL every process of the container but its first, which its own PID namespace protects from that."""
    run_in(space, pod, _KILL_ALL)


def ask_to_stop(space: Space, pod: str) -> None:
    """SIGTERM to the container's first process, as the kubelet sends it, while nobody deletes the pod."""
    run_in(space, pod, _ASK_TO_STOP)


def signal_ranks(space: Space, pod: str, name: str) -> list[int]:
    """Send a signal, by its name, to the rank processes of the container; returns their ids."""
    pids: list[int] = json.loads(run_in(space, pod, _RANKS))
    assert pids, f"no rank runs in {pod}"
    run_in(space, pod, _SIGNAL.format(name=name, pids=pids))
    return pids


@contextmanager
def drained(space: Space, node: str, selector: str) -> Iterator[None]:
    """Drain a node of the pods that match; it takes pods again afterwards, whatever happened."""
    flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"]
    try:
        space.cluster.run("drain", node, f"--pod-selector={selector}", *flags)
        yield
    finally:
        space.cluster.run("uncordon", node)


def start_script(space: Space, name: str, program: str, env: Mapping[str, str]) -> None:
    """Run a Python program of the standard library in a pod of its own; returns when it runs."""
    users.start_script(space.cluster, space.site.operator_image, name, program, env)

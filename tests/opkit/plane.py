"""A control plane beside the shared test bed, for what must not meet a node or other tests' objects."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import bed, teardown
from testbed.bed import Bed
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.state import Profile


@contextmanager
def private_plane(root: Path | None = None) -> Iterator[Bed]:
    """etcd, API server and controller manager on ports of their own; gone, with their state, at the end."""
    with tempfile.TemporaryDirectory(prefix="rlhf-plane-") as scratch:
        paths = Paths(root or Path(scratch))
        paths.root.mkdir(parents=True, exist_ok=True)
        shared = Paths.default().tools
        shared.mkdir(parents=True, exist_ok=True)
        if not paths.tools.exists():
            # The binaries are the shared cache's: only the running state is private.
            paths.tools.symlink_to(shared)
        try:
            yield bed.up(Profile.CONTROL_PLANE, paths, Progress())
        finally:
            teardown.down(paths, Progress())

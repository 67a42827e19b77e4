"""Runs boxed_teardown.py on a machine in a box, with a cache of its own that shares the built tools and images."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

import testbed
from testbed.paths import Paths
from testbed.state import Profile

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 900


def _box() -> ModuleType:
    spec = importlib.util.spec_from_file_location("box", HERE / "box.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
def test_nothing_stays_behind_and_crashes_are_cleaned_up() -> None:
    box = _box()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "boxed_teardown.py")]
    if not box.available():
        # On the host itself then: the shared bed goes down and comes up again.
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        assert done.returncode == 0, done.stdout[-6000:]
        return
    shared = testbed.ensure(Profile.NODE, gateway=False).paths
    # Beside the shared cache: on its file system for links, and short enough for a socket's path.
    home = Path(tempfile.mkdtemp(prefix="box-", dir=shared.root.parent))
    own = Paths(home / "rlhf-operator")
    own.root.mkdir()
    own.tools.symlink_to(shared.tools)
    shutil.copytree(shared.images, own.images, copy_function=os.link)
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    try:
        done = box.run(command, environment, TIMEOUT_SECONDS)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert "4 passed" in done.stdout

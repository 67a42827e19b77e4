"""A Python environment for a peer, made once from pinned requirements and kept beside the test bed's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.paths import Paths
from testbed.serverenv import find_uv

_INSTALL_SECONDS = 1800.0
_DONE = ".complete"


def python_of(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of an environment that holds these requirements; installs them when it is not there."""
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = Paths.default().root / "envs" / f"peer-{name}-{key}"
    if not (folder / _DONE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {', '.join(requirements)} into an environment of its own", file=sys.stderr, flush=True)
        uv = find_uv()
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *requirements])
        (folder / _DONE).touch()
    return folder / "bin" / "python"


def _run(command: Sequence[str]) -> None:
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "1"}
    env.pop("VIRTUAL_ENV", None)
    subprocess.run(command, env=env, check=True, timeout=_INSTALL_SECONDS)

"""vLLM's Python environment: made once from uv.lock, beside the checkout, for the judge's tests and for serving pods.

It can't be the environment that runs this: vLLM's pins and the trainer's are one lock, but 6 GB are not installed for
those who train. Our own packages are installed editable, so that what runs is the checkout as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import BedError
from testbed.paths import Paths
from testbed.progress import Progress

CHECKOUT = Path(__file__).resolve().parents[2]
EXTRA = "server-cpu"
# What a machine without a GPU needs: little memory for the cache, no binding to cores that a container may not have.
CPU_ENGINE = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
_PREFIX = "server-"
_MARKER = ".complete"
_SYNC_SECONDS = 1800


def folder(paths: Paths) -> Path:
    """Where environments are; a kind cluster's node mounts it before there is one."""
    return paths.root / "envs"


def name_for(checkout: Path) -> str:
    """The environment's folder: another checkout has another, for it is installed editable."""
    digest = hashlib.sha256(str(checkout).encode())
    digest.update(b"\0" + (checkout / "uv.lock").read_bytes())
    # Of the rest of the file, linters' settings for example, nothing is installed.
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    installed = [project.get("project"), project.get("build-system"), project.get("tool", {}).get("hatch")]
    digest.update(json.dumps(installed, sort_keys=True).encode())
    return _PREFIX + digest.hexdigest()[:16]


def ensure(paths: Paths | None = None, progress: Progress | None = None, checkout: Path = CHECKOUT) -> Path:
    """The environment's folder, made when it is not there. Raises BedError with uv's last words."""
    root = folder(paths or Paths.default())
    prefix = root / name_for(checkout)
    if (prefix / _MARKER).is_file():
        return prefix
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root / "server.lock"):
        if not (prefix / _MARKER).is_file():
            say = (progress or Progress()).say
            say("making vLLM's environment as uv.lock says (about 6 GB, linked from uv's cache when it is there)")
            _sync(prefix, checkout)
            (prefix / _MARKER).write_text(str(checkout))
            for stale in superseded(root, prefix, checkout):
                if in_use(stale):
                    continue
                say(f"removing {stale.name}")
                shutil.rmtree(stale, ignore_errors=True)
    return prefix


def in_use(folder: Path) -> bool:
    """Whether a process, in a pod or not, has one of its files mapped: it would break in its middle."""
    needle = f"{folder}/".encode()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if needle in maps.read_bytes():
                return True
        except OSError:
            continue
    return False


def superseded(root: Path, current: Path, checkout: Path) -> list[Path]:
    """Environments that nobody needs: this checkout's former ones, unfinished ones, and those of checkouts gone."""
    found = []
    for environment in sorted(root.glob(f"{_PREFIX}*")):
        if environment == current or not environment.is_dir():
            continue
        marker = environment / _MARKER
        owner = Path(marker.read_text()) if marker.is_file() else None
        if owner is None or owner == checkout or not owner.is_dir():
            found.append(environment)
    return found


def find_uv() -> str:
    """Find uv: as PATH has it, or as `make setup` installed it. Raises BedError."""
    own = Paths.default().root / "uv" / "bin" / "uv"
    uv = shutil.which("uv") or (str(own) if own.is_file() else None)
    if uv is None:
        raise BedError("uv is not on PATH: run `make setup` first")
    return uv


def _sync(prefix: Path, checkout: Path) -> None:
    python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    command = [find_uv(), "sync", "--frozen", "--quiet", "--no-default-groups", "--extra", EXTRA, "--python", python]
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(prefix), "UV_PYTHON_DOWNLOADS": "never", "UV_SYSTEM_CERTS": "1"}
    env.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command, cwd=checkout, env=env, capture_output=True, text=True, timeout=_SYNC_SECONDS, check=False
    )
    if done.returncode != 0:
        raise BedError(f"uv sync of {prefix} failed: {done.stderr.strip()[-2000:]}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

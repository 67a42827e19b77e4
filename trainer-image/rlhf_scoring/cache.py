"""A volume that keeps model files between pods: a folder stands under its digest's name only once it was verified."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

_ABANDONED_SECONDS = 24 * 3600.0
_PREFIX = ".copying-"


def kept(cache: Path, artifact: Path, digest: str, hold: Callable[[Path, str], None]) -> Path:
    """Return the verified copy of an artifact, made when there is none.

    hold: raises for files that are not those of the digest; asked of the copy, for what was read is what is served.
    Raises what it raises, and OSError.
    """
    target = cache / digest.replace(":", "-")
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    copy = cache / f"{_PREFIX}{socket.gethostname()}-{os.getpid()}"
    shutil.rmtree(copy, ignore_errors=True)
    try:
        # Links are copied as links, for `hold` to refuse them.
        shutil.copytree(artifact, copy, symlinks=True)
        hold(copy, digest)
        try:
            copy.rename(target)
        except OSError:
            # Another pod was faster.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return target


def _sweep(cache: Path) -> None:
    """Remove what pods left behind that were killed while they copied."""
    for each in cache.glob(f"{_PREFIX}*"):
        try:
            if time.time() - each.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(each, ignore_errors=True)
        except FileNotFoundError:
            continue

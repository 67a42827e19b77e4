"""Finds each binary: KUBEBUILDER_ASSETS and PATH, the cache, the official downloads, a build from Go modules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testbed import gobuild
from testbed.download import fetch
from testbed.errors import BinaryUnavailableError
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import TOOLS, Download, Tool

Fetch = Callable[[Download, Path], None]
BuildAll = Callable[[Sequence[Tool], dict[str, Path], Paths, Progress], None]


def require(
    names: Iterable[str],
    paths: Paths,
    progress: Progress,
    fetch_file: Fetch = fetch,
    build_all: BuildAll = gobuild.build,
) -> dict[str, Path]:
    """Paths of the named binaries; what is missing is downloaded, or built when no publisher can be reached.

    Raises BinaryUnavailableError or BuildFailedError.
    """
    tools = [TOOLS[name] for name in dict.fromkeys(names)]
    found = {tool.name: path for tool in tools if (path := locate(tool, paths)) is not None}
    missing = [tool for tool in tools if tool.name not in found]
    if missing:
        missing = _download(missing, paths, progress, fetch_file)
    if missing:
        build_all(missing, {tool.name: cached(tool, paths) for tool in missing}, paths, progress)
    return {tool.name: found.get(tool.name, cached(tool, paths)) for tool in tools}


def cached(tool: Tool, paths: Paths) -> Path:
    """Where the cache keeps this version of the tool."""
    return paths.tools / tool.name / tool.version / tool.name


def locate(tool: Tool, paths: Paths) -> Path | None:
    """An existing copy of the right minor version, or None."""
    for candidate in _installed(tool.name):
        if has_version(tool, candidate):
            return candidate
    copy = cached(tool, paths)
    return copy if os.access(copy, os.X_OK) else None


def _installed(name: str) -> list[Path]:
    candidates = []
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        candidates.append(Path(assets) / name)
    if on_path := shutil.which(name):
        candidates.append(Path(on_path))
    return candidates


def has_version(tool: Tool, binary: Path) -> bool:
    """Whether the binary runs and says that it is of the tool's minor version."""
    if not os.access(binary, os.X_OK):
        return False
    try:
        done = subprocess.run([binary, *tool.version_args], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    versions = re.findall(r"(?<![\w.])v?(\d+\.\d+)(?:\.\d+)?(?![\w-])", done.stdout)
    return done.returncode == 0 and bool(versions) and versions[0] == tool.minor


def _download(missing: Sequence[Tool], paths: Paths, progress: Progress, fetch_file: Fetch) -> list[Tool]:
    """Try the official downloads side by side; returns the tools that still are missing."""

    def attempt(tool: Tool) -> Tool | None:
        if tool.download is None:
            return tool
        try:
            fetch_file(tool.download, cached(tool, paths))
        except BinaryUnavailableError as error:
            progress.say(f"no download of {tool.name} {tool.version}: {error}")
            return tool
        progress.say(f"downloaded {tool.name} {tool.version}, checksum verified")
        return None

    if published := [tool.name for tool in missing if tool.download is not None]:
        progress.say(f"downloading {', '.join(published)}")
    with ThreadPoolExecutor(max_workers=4) as pool:
        return [tool for tool in pool.map(attempt, missing) if tool is not None]

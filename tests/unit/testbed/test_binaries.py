"""Where a binary is looked for, in which order, and which copies are passed over."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from testbed.binaries import cached, has_version, locate, require
from testbed.errors import BinaryUnavailableError
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import KUBERNETES, TOOLS, Download, Tool

TOOL = TOOLS["kube-apiserver"]


def _script(path: Path, output: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return Paths(tmp_path / "cache")


def _no_download(download: Download, target: Path) -> None:
    raise BinaryUnavailableError("no network")


def _no_build(tools: Sequence[Tool], targets: dict[str, Path], paths: Paths, progress: Progress) -> None:
    raise AssertionError("must not build")


def test_assets_come_before_path_and_path_before_the_cache(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"Kubernetes v{KUBERNETES}"
    in_cache = _script(cached(TOOL, paths), output)
    assert locate(TOOL, paths) == in_cache
    on_path = _script(tmp_path / "bin" / TOOL.name, output)
    assert locate(TOOL, paths) == on_path
    in_assets = _script(tmp_path / "assets" / TOOL.name, output)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert locate(TOOL, paths) == in_assets


def test_another_minor_version_is_passed_over(paths: Paths, tmp_path: Path) -> None:
    _script(tmp_path / "bin" / TOOL.name, "Kubernetes v1.32.4-dispatcher")
    assert locate(TOOL, paths) is None
    in_cache = _script(cached(TOOL, paths), "anything: the cache is keyed by version")
    assert locate(TOOL, paths) == in_cache


@pytest.mark.parametrize(
    ("name", "output", "accepted"),
    [
        ("kube-apiserver", "Kubernetes v1.34.7", True),
        ("kube-apiserver", "Kubernetes v1.3.42", False),
        ("kubectl", "Client Version: v1.34.2\nKustomize Version: v5.7.1", True),
        ("kubectl", "Client Version: v1.32.4\nKustomize Version: v1.34.1", False),
        ("etcd", "etcd Version: 3.6.8\nGit SHA: abc", True),
        ("coredns", "CoreDNS-1.15.0\nlinux/amd64, go1.26.8,", True),
        ("helm", "v3.22.0+gabcdef", True),
        ("kwok", "kwok version v0.8.0 go1.26.8 (linux/amd64)", True),
        ("prometheus", "prometheus, version 2.42.0+ds (branch: debian)", False),
        ("prometheus", "prometheus, version 3.13.5 (branch: , revision: unknown)", True),
        ("envoy-gateway", "unknown", False),
    ],
)
def test_a_found_copy_must_say_the_right_minor_version(tmp_path: Path, name: str, output: str, accepted: bool) -> None:
    assert has_version(TOOLS[name], _script(tmp_path / name, output)) is accepted


def test_a_copy_that_fails_or_is_no_program_is_passed_over(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text(f"#!/bin/sh\necho v{KUBERNETES}\nexit 1\n")
    broken.chmod(0o755)
    assert not has_version(TOOL, broken)
    data = tmp_path / "data"
    data.write_bytes(b"\x7fELF nonsense")
    data.chmod(0o755)
    assert not has_version(TOOL, data)
    assert not has_version(TOOL, tmp_path / "missing")


def test_what_is_found_is_neither_downloaded_nor_built(paths: Paths) -> None:
    copy = _script(cached(TOOL, paths), "")
    found = require([TOOL.name], paths, Progress(io.StringIO()), _no_download, _no_build)
    assert found == {TOOL.name: copy}


def test_a_download_spares_the_build(paths: Paths) -> None:
    def download(_: Download, target: Path) -> None:
        _script(target, "")

    found = require([TOOL.name], paths, Progress(io.StringIO()), download, _no_build)
    assert found == {TOOL.name: cached(TOOL, paths)}


def test_only_what_no_publisher_gave_is_built_and_the_reason_is_said(paths: Paths) -> None:
    built: list[str] = []
    etcd = TOOLS["etcd"]

    def download(wanted: Download, target: Path) -> None:
        if wanted is etcd.download:
            raise BinaryUnavailableError("no network")
        _script(target, "")

    def build(tools: Sequence[Tool], targets: dict[str, Path], paths: Paths, progress: Progress) -> None:
        built.extend(tool.name for tool in tools)
        for tool in tools:
            _script(targets[tool.name], "")

    said = io.StringIO()
    found = require(["etcd", TOOL.name], paths, Progress(said), download, build)
    assert built == ["etcd"]
    assert set(found) == {"etcd", TOOL.name}
    assert "no download of etcd 3.6.8: no network" in said.getvalue()

"""The small module around a Go build; the build itself is run by bringing a bed up."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import BuildFailedError
from testbed.gobuild import go_version, module_file, place
from testbed.versions import TOOLS


def test_staging_modules_are_replaced_by_their_published_versions_and_nothing_else_is() -> None:
    requirements = [("k8s.io/api", "v0.0.0"), ("k8s.io/utils", "v0.0.0-20250604170112"), ("k8s.io/klog/v2", "v2.130.1")]
    text = module_file(TOOLS["kubelet"].build, requirements)
    assert "require k8s.io/kubernetes v1.34.2\n" in text
    assert [line for line in text.splitlines() if line.startswith("replace")] == [
        "replace k8s.io/api => k8s.io/api v0.34.2"
    ]


def test_a_build_that_left_no_binary_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildFailedError, match="left no tool"):
        place(tmp_path / "tool", tmp_path / "target" / "tool")


@pytest.mark.parametrize(
    ("output", "expected"),
    [("go version go1.26.8 linux/amd64", (1, 26)), ("go version go1.27rc1 linux/arm64", (1, 27)), ("what?", None)],
)
def test_go_version(tmp_path: Path, output: str, expected: tuple[int, int] | None) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho '{output}'\n")
    go.chmod(0o755)
    assert go_version(go) == expected


def test_a_go_command_that_is_not_there_has_no_version(tmp_path: Path) -> None:
    assert go_version(tmp_path / "go") is None

"""Images written by hand: same input, same digest; archives that hold what was asked for."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed import oci
from testbed.dockerfiles import CHECKOUT, OPERATOR, SERVER, TRAINER, Dockerfile, content_key
from testbed.images import BASE_PACKAGES, Distribution, base_packages, host_distribution, parse_ldd


def _read(archive: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """(manifest, config, blobs by hex digest)."""
    blobs, index = {}, {}
    with tarfile.open(archive) as tar:
        for member in tar:
            data = tar.extractfile(member)
            if data is not None:
                content = data.read()
                if member.name == "index.json":
                    index = json.loads(content)
                elif "sha256" in member.name:
                    blobs[Path(member.name).name] = content
    manifest = json.loads(blobs[index["manifests"][0]["digest"].removeprefix("sha256:")])
    return manifest, json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")]), blobs


def _image(tmp_path: Path, **more: Any) -> oci.Image:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o750)
    return oci.Image(name="localhost/test/tool:1", files=((tool, "/usr/bin/tool"),), **more)


def test_the_same_input_gives_the_same_digest(tmp_path: Path) -> None:
    first = oci.write(_image(tmp_path, entrypoint=("/usr/bin/tool",)), tmp_path / "one.tar")
    second = oci.write(_image(tmp_path, entrypoint=("/usr/bin/tool",)), tmp_path / "two.tar")
    assert first == second
    other = oci.write(_image(tmp_path, entrypoint=("/usr/bin/other",)), tmp_path / "three.tar")
    assert other != first


def test_every_blob_is_named_by_its_content_and_history_accounts_for_the_layers(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=test\n")
    base = tmp_path / "base.tar"
    oci.write(oci.Image(name="localhost/test/base:1", tree=tree), base)
    archive = tmp_path / "image.tar"
    oci.write(_image(tmp_path, base=base, user="65532", env={"A": "b"}), archive)
    manifest, config, blobs = _read(archive)
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in blobs.items())
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 2
    assert config["config"]["User"] == "65532"
    assert "A=b" in config["config"]["Env"]
    assert oci.image_name(archive) == "localhost/test/tool:1"


def test_files_belong_to_root_and_can_be_run_by_all(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    oci.write(_image(tmp_path), archive)
    manifest, _, blobs = _read(archive)
    layer = tmp_path / "layer.tar"
    layer.write_bytes(blobs[manifest["layers"][0]["digest"].removeprefix("sha256:")])
    with tarfile.open(layer) as tar:
        member = tar.getmember("usr/bin/tool")
    assert (member.uid, member.gid, member.mode) == (0, 0, 0o755)


@pytest.mark.parametrize(
    ("text", "suite", "mirror"),
    [
        ('ID=debian\nVERSION_CODENAME=trixie\nNAME="Debian"\n', "trixie", "deb.debian.org"),
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", "noble", "archive.ubuntu.com"),
        ("ID=fedora\nVERSION_ID=42\n", "bookworm", "deb.debian.org"),
    ],
)
def test_the_base_is_of_the_hosts_distribution_where_that_can_be(text: str, suite: str, mirror: str) -> None:
    distribution = host_distribution(text)
    assert distribution.suite == suite
    assert mirror in distribution.mirror
    assert isinstance(distribution, Distribution)


def test_the_systems_own_interpreter_brings_its_headers() -> None:
    assert base_packages(Path("/opt/python")) == BASE_PACKAGES
    assert "python3-dev" in base_packages(Path("/usr"))


def test_ldd_lines_are_read() -> None:
    text = """\
	linux-vdso.so.1 (0x00007ffc)
	libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f01)
	libgone.so => not found
	/lib64/ld-linux-x86-64.so.2 (0x00007f02)
"""
    assert parse_ldd(text) == ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]


def test_an_images_key_follows_its_sources_and_its_base(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "Dockerfile", "src/a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    dockerfile = Dockerfile("x", "Dockerfile", ("src",))
    first = content_key(dockerfile, "base:1", tmp_path)
    (tmp_path / "src/__pycache__").mkdir()
    (tmp_path / "src/__pycache__/a.pyc").write_text("compiled")
    assert content_key(dockerfile, "base:1", tmp_path) == first
    assert content_key(dockerfile, "base:2", tmp_path) != first
    assert content_key(replace(dockerfile, arguments=("EXTRA=a",)), "base:1", tmp_path) != first
    (tmp_path / "src/a.py").write_text("changed")
    assert content_key(dockerfile, "base:1", tmp_path) != first


@pytest.mark.parametrize("dockerfile", [OPERATOR, TRAINER, SERVER], ids=lambda d: d.name)
def test_dockerfiles_take_their_base_as_argument_and_run_as_nobody_special(dockerfile: Dockerfile) -> None:
    lines = (CHECKOUT / dockerfile.path).read_text().splitlines()
    assert any(line.startswith("ARG BASE_IMAGE=") for line in lines)
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE_IMAGE} AS build", "FROM ${BASE_IMAGE}"]
    last_user = [line for line in lines if line.startswith("USER")][-1]
    assert last_user == "USER 65532:65532"
    assert lines[-1].startswith('ENTRYPOINT ["python", "-m", ')
    copied = {
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    }
    assert copied == {*dockerfile.sources, "pyproject.toml", "uv.lock", "README.md", "LICENSE"}
    allowed = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert all(f"!{name}" in allowed for name in copied)

"""Writes OCI image archives from folders and files: no container engine, no registry, same input → same digest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from testbed.errors import BuildFailedError
from testbed.versions import ARCH

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What an archive is made of: a base archive, a whole tree, single files (source → path in the image)."""

    name: str
    base: Path | None = None
    tree: Path | None = None
    files: tuple[tuple[Path, str], ...] = ()
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class _Content:
    layers: list[dict[str, Any]]
    diff_ids: list[str]


def write(image: Image, archive: Path) -> str:
    """Write the image as an OCI archive that `ctr images import` takes; returns the manifest's digest."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".oci-") as folder:
        layout = Path(folder) / "layout"
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        content = _Content([], [])
        if image.base is not None:
            content = _unpack_base(image.base, layout)
        if image.tree is not None:
            _add_layer(content, blobs, _tree_layer(image.tree, Path(folder)))
        if image.files:
            _add_layer(content, blobs, _files_layer(image.files, Path(folder)))
        digest = _write_index(image, content, layout, blobs)
        draft = Path(folder) / "archive.tar"
        run(["tar", "-cf", str(draft), "-C", str(layout), "oci-layout", "index.json", "blobs"])
        os.replace(draft, archive)
    return digest


def image_name(archive: Path) -> str:
    """The name that an archive's image is imported under."""
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        if index is None:
            raise BuildFailedError(f"{archive} is not an OCI archive")
        with index:
            manifest = json.load(index)["manifests"][0]
    return str(manifest["annotations"]["io.containerd.image.name"])


def run(command: Sequence[str], timeout_seconds: float = 1800, stdin: IO[bytes] | None = None) -> str:
    """Run a command; its output, or BuildFailedError with the end of its errors."""
    done = subprocess.run(
        list(command), stdin=stdin, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    if done.returncode != 0:
        end = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise BuildFailedError(f"`{' '.join(command)}` ended with {done.returncode}:\n{end}")
    return done.stdout


def _unpack_base(base: Path, layout: Path) -> _Content:
    """Take over the base's layers; its manifest and configuration are not needed."""
    run(["tar", "-xf", str(base), "-C", str(layout)])
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads((blobs / _hex(index["manifests"][0]["digest"])).read_text())
    config = json.loads((blobs / _hex(manifest["config"]["digest"])).read_text())
    keep = {_hex(layer["digest"]) for layer in manifest["layers"]}
    for blob in blobs.iterdir():
        if blob.name not in keep:
            blob.unlink()
    return _Content(list(manifest["layers"]), list(config["rootfs"]["diff_ids"]))


def _tree_layer(tree: Path, folder: Path) -> Path:
    layer = folder / "tree.tar"
    options = ["--numeric-owner", "--one-file-system", "--sort=name", "--mtime=@0"]
    run(["tar", "-cf", str(layer), *options, "-C", str(tree), "."])
    return layer


def _files_layer(files: Sequence[tuple[Path, str]], folder: Path) -> Path:
    """Single files, owned by root, readable and executable by all."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = 0
        info.mode = 0o755 if info.mode & 0o111 else 0o644
        return info

    layer = folder / "files.tar"
    with tarfile.open(layer, "w") as tar:
        for source, target in files:
            tar.add(source.resolve(), target.lstrip("/"), filter=plain)
    return layer


def _add_layer(content: _Content, blobs: Path, layer: Path) -> None:
    size = layer.stat().st_size
    with layer.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    os.replace(layer, blobs / digest)
    content.layers.append({"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size})
    content.diff_ids.append(f"sha256:{digest}")


def _write_index(image: Image, content: _Content, layout: Path, blobs: Path) -> str:
    config: dict[str, Any] = {"Env": [f"{k}={v}" for k, v in {"PATH": _PATH, **image.env}.items()]}
    if image.entrypoint:
        config["Entrypoint"] = list(image.entrypoint)
    if image.user:
        config["User"] = image.user
    config_blob = _put(
        blobs,
        {
            "architecture": ARCH,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": content.diff_ids},
            # Builders refuse a base whose history does not account for its layers.
            "history": [{"created_by": "testbed"} for _ in content.diff_ids],
        },
    )
    manifest_blob = _put(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, **config_blob},
            "layers": content.layers,
        },
    )
    annotations = {
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name.rsplit(":", 1)[-1],
    }
    entry = {"mediaType": _MANIFEST, **manifest_blob, "annotations": annotations}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    return str(manifest_blob["digest"])


def _put(blobs: Path, value: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(value, sort_keys=True).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")

"""Official release files, fetched over HTTP and verified against the publisher's SHA-256 before use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from testbed.errors import BinaryUnavailableError, ChecksumMismatchError
from testbed.versions import Download

_CONNECT_TIMEOUT_SECONDS = 10
_CHECKSUM_LIMIT_BYTES = 4 << 20
_FILE_LIMIT_BYTES = 1 << 30
_HEX_DIGITS = set("0123456789abcdef")


def fetch(download: Download, target: Path) -> None:
    """Download, verify, unpack if it is an archive, and move to `target` as an executable.

    Raises BinaryUnavailableError when the publisher can't be reached, ChecksumMismatchError when the file is not the
    published one. Nothing is left at `target` then.
    """
    expected = published_digest(download)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
        release = Path(folder) / "release"
        actual = _save(download.url, release)
        if actual != expected:
            raise ChecksumMismatchError(
                f"{download.url} has SHA-256 {actual}, but {download.checksum_url} says {expected}; "
                "the file was thrown away (a proxy or a mirror may have changed it)"
            )
        binary = _unpack(release, download.member, Path(folder)) if download.member else release
        binary.chmod(0o755)
        os.replace(binary, target)


def published_digest(download: Download) -> str:
    """The SHA-256 (lower-case hex) that the publisher states for the release file."""
    text = _read(download.checksum_url)
    digest = (
        digest_from_release(text, download.filename)
        if download.checksum_kind == "github"
        else digest_from_list(text, download.filename)
    )
    if digest is None:
        raise BinaryUnavailableError(f"{download.checksum_url} names no SHA-256 for {download.filename}")
    return digest


def digest_from_list(text: str, filename: str) -> str | None:
    """Read a checksum file: a bare digest, or `digest  name` lines of which one names the file."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for words in lines:
        named = len(words) > 1 and words[-1].lstrip("*").rsplit("/", 1)[-1] == filename
        alone = len(words) == 1 and len(lines) == 1
        if (named or alone) and _is_digest(words[0]):
            return words[0].lower()
    return None


def digest_from_release(text: str, filename: str) -> str | None:
    """Read a release's description from GitHub's API: `assets[].digest` is `sha256:…`."""
    try:
        release = json.loads(text)
    except json.JSONDecodeError:
        return None
    assets = release.get("assets", []) if isinstance(release, dict) else []
    for asset in assets:
        if isinstance(asset, dict) and asset.get("name") == filename:
            algorithm, _, digest = str(asset.get("digest", "")).partition(":")
            return digest.lower() if algorithm == "sha256" and _is_digest(digest) else None
    return None


def _is_digest(word: str) -> bool:
    return len(word) == 64 and set(word.lower()) <= _HEX_DIGITS


def _open(url: str) -> Any:
    if not url.startswith(("https://", "http://127.0.0.1:")):
        raise BinaryUnavailableError(f"{url} is neither https nor on this machine")
    return urllib.request.urlopen(url, timeout=_CONNECT_TIMEOUT_SECONDS)  # noqa: S310 - the scheme is checked above


def _read(url: str) -> str:
    try:
        with _open(url) as response:
            data: bytes = response.read(_CHECKSUM_LIMIT_BYTES + 1)
    except (urllib.error.URLError, OSError) as error:
        raise BinaryUnavailableError(f"{url}: {error}") from error
    if len(data) > _CHECKSUM_LIMIT_BYTES:
        raise BinaryUnavailableError(f"{url} is larger than {_CHECKSUM_LIMIT_BYTES} bytes: not a checksum file")
    return data.decode(errors="replace")


def _save(url: str, path: Path) -> str:
    """Write the body to `path`; returns its SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        with _open(url) as response, path.open("wb") as out:
            while block := response.read(1 << 20):
                size += len(block)
                if size > _FILE_LIMIT_BYTES:
                    raise BinaryUnavailableError(f"{url} is larger than {_FILE_LIMIT_BYTES} bytes")
                digest.update(block)
                out.write(block)
    except (urllib.error.URLError, OSError) as error:
        raise BinaryUnavailableError(f"{url}: {error}") from error
    return digest.hexdigest()


def _unpack(archive: Path, member: str, folder: Path) -> Path:
    """Take one regular file out of a gzipped tar, by its exact name."""
    with tarfile.open(archive, "r:gz") as tar:
        for info in tar:
            if info.isfile() and info.name.removeprefix("./") == member:
                source = tar.extractfile(info)
                if source is None:
                    break
                path = folder / "member"
                with source, path.open("wb") as out:
                    shutil.copyfileobj(source, out)
                return path
    raise BinaryUnavailableError(f"the downloaded archive holds no file {member}")

"""Downloads against a file server on loopback: what the publisher's checksum says decides."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.download import digest_from_list, digest_from_release, fetch
from testbed.errors import BinaryUnavailableError, ChecksumMismatchError
from testbed.versions import ADDONS, CONTROL_PLANE, NODE, SIMULATION, TOOLS, Download

BINARY = b"#!/bin/sh\necho tool\n"
DIGEST = hashlib.sha256(BINARY).hexdigest()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _serve(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "tool").write_bytes(BINARY)
    with _serve(folder) as address:
        yield folder, address


def test_a_file_with_the_published_sum_becomes_an_executable(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = published
    (folder / "tool.sha256").write_text(f"{DIGEST}\n")
    target = tmp_path / "cache" / "tool"
    fetch(Download(f"{address}/tool", f"{address}/tool.sha256"), target)
    assert target.read_bytes() == BINARY
    assert target.stat().st_mode & 0o111


def test_a_file_with_another_sum_is_thrown_away_and_both_sums_are_named(
    published: tuple[Path, str], tmp_path: Path
) -> None:
    folder, address = published
    (folder / "tool.sha256").write_text("0" * 64)
    target = tmp_path / "cache" / "tool"
    with pytest.raises(ChecksumMismatchError) as caught:
        fetch(Download(f"{address}/tool", f"{address}/tool.sha256"), target)
    assert DIGEST in str(caught.value)
    assert "0" * 64 in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_a_member_is_taken_out_of_an_archive(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = published
    with tarfile.open(folder / "tool.tar.gz", "w:gz") as tar:
        for name, data in (("./tool-1/README", b"no"), ("./tool-1/tool", BINARY)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    digest = hashlib.sha256((folder / "tool.tar.gz").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{'1' * 64}  other.tar.gz\n{digest}  tool.tar.gz\n")
    target = tmp_path / "cache" / "tool"
    fetch(Download(f"{address}/tool.tar.gz", f"{address}/SHA256SUMS", member="tool-1/tool"), target)
    assert target.read_bytes() == BINARY


def test_an_archive_without_the_member_gives_nothing(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = published
    with tarfile.open(folder / "tool.tar.gz", "w:gz"):
        pass
    digest = hashlib.sha256((folder / "tool.tar.gz").read_bytes()).hexdigest()
    (folder / "sums").write_text(digest)
    with pytest.raises(BinaryUnavailableError, match="holds no file tool-1/tool"):
        fetch(Download(f"{address}/tool.tar.gz", f"{address}/sums", member="tool-1/tool"), tmp_path / "tool")


def test_a_checksum_file_that_does_not_name_the_file_gives_nothing(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = published
    (folder / "sums").write_text(f"{DIGEST}  other\n")
    with pytest.raises(BinaryUnavailableError, match="names no SHA-256 for tool"):
        fetch(Download(f"{address}/tool", f"{address}/sums"), tmp_path / "tool")


def test_a_missing_publisher_is_unavailable_not_a_crash(published: tuple[Path, str], tmp_path: Path) -> None:
    _, address = published
    with pytest.raises(BinaryUnavailableError, match="404"):
        fetch(Download(f"{address}/tool", f"{address}/nothing"), tmp_path / "tool")
    with pytest.raises(BinaryUnavailableError, match="refused"):
        fetch(Download("http://127.0.0.1:9/tool", "http://127.0.0.1:9/sums"), tmp_path / "tool")


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BinaryUnavailableError, match="neither https"):
        fetch(Download("file:///bin/sh", "file:///etc/hostname"), tmp_path / "tool")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DIGEST.upper(), DIGEST),
        (f"{DIGEST} *tool", DIGEST),
        (f"{DIGEST}  dist/tool", DIGEST),
        (f"{DIGEST}  tool.exe", None),
        ("<html>not a digest</html>", None),
        (f"{DIGEST}\n{'1' * 64}\n", None),
    ],
)
def test_checksum_lists(text: str, expected: str | None) -> None:
    assert digest_from_list(text, "tool") == expected


def test_a_release_description_names_each_assets_digest() -> None:
    release = {
        "assets": [{"name": "other", "digest": "sha256:" + "1" * 64}, {"name": "tool", "digest": f"sha256:{DIGEST}"}]
    }
    assert digest_from_release(json.dumps(release), "tool") == DIGEST
    assert digest_from_release(json.dumps({"assets": [{"name": "tool"}]}), "tool") is None
    assert digest_from_release("[]", "tool") is None
    assert digest_from_release("no json", "tool") is None


def test_every_download_is_https_and_has_a_checksum() -> None:
    for name in (*CONTROL_PLANE, *NODE, *ADDONS, *SIMULATION):
        tool = TOOLS[name]
        assert tool.download is not None
        assert tool.download.url.startswith("https://")
        assert tool.download.checksum_url.startswith("https://")
        assert tool.version in tool.download.url

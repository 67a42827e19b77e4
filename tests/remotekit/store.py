"""An S3 store: the Versity gateway over a folder, built from its Go module once and kept in the test bed's cache."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from testbed.binaries import require
from testbed.paths import Paths
from testbed.progress import Progress

ACCESS_KEY, SECRET_KEY = "tests", "tests-secret"
_STARTS_SECONDS = 30


class Store:
    """The server, and what its buckets hold."""

    def __init__(self, folder: Path) -> None:
        binary = require(("versitygw",), Paths.default(), Progress())["versitygw"]
        self.folder = folder / "buckets"
        notes = folder / "notes"
        for each in (self.folder, notes):
            each.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.endpoint = f"http://{address}"
        self._log = (folder / "store.log").open("wb")
        # What an object is beside its bytes goes into files: not every file system has attributes for it.
        self._process = subprocess.Popen(
            [binary, "--port", address, "posix", "--sidecar", notes, self.folder],
            env={**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + _STARTS_SECONDS
        while True:
            host, _, port = address.partition(":")
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            assert self._process.poll() is None, (folder / "store.log").read_text()
            assert time.monotonic() < deadline, "the store did not start"
            time.sleep(0.05)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def bucket(self, name: str, files: dict[str, bytes] | None = None) -> Path:
        """Make a bucket with these objects; returns its folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for key, data in (files or {}).items():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

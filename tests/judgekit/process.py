"""The judge and vLLM as processes of their own, as their pods run them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from judgekit.versions import Version
from testbed.paths import cache_root
from testbed.serverenv import CPU_ENGINE

_PATIENCE_SECONDS = 60.0
# On a machine that others use, too, vLLM takes many times as long as alone.
_ENGINE_SECONDS = 480.0


def free_port() -> int:
    """A loopback port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A server on a loopback port, its output in a file, ended with the block."""

    def __init__(self, command: Sequence[str], port: int, log: Path, env: dict[str, str]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                list(command), stdout=file, stderr=file, env={**_environment(), **env}, start_new_session=True
            )
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def get(self, path: str) -> httpx.Response:
        """One GET."""
        return self._client.get(path)

    def post(self, path: str, content: Any, timeout: float = 60) -> httpx.Response:
        """One POST of JSON."""
        return self._client.post(path, json=content, timeout=timeout)

    def answers(self, path: str) -> bool:
        """Whether a GET succeeds now."""
        try:
            return self.get(path).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def wait_for(self, condition: Callable[[], bool], seconds: float = _PATIENCE_SECONDS) -> None:
        """Poll until it holds; fails with the end of the log."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, f"it ended with {self._process.returncode}: {self.tail()}"
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {self.tail()}"
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send the server a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it and its children at once, as a node's failure would."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def rss_bytes(self) -> int:
        """Resident memory of the server's own process."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def wait(self) -> int:
        """Its exit status."""
        return self._process.wait(_PATIENCE_SECONDS)

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-3000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()
        if self._process.poll() is None:
            self.kill()


class JudgeProcess(Process):
    """`python -m rlhf_server.judge` for one version; settings as environment variables are."""

    def __init__(
        self, version: Version, log: Path, engine: str = "", python: str = sys.executable, **settings: str
    ) -> None:
        port = free_port()
        command = [python, "-m", "rlhf_server.judge", "--scorer", str(version.directory), "--version", version.digest]
        command += ["--port", str(port), "--host", "127.0.0.1", *(["--engine", engine] if engine else [])]
        super().__init__(command, port, log, {f"RLHF_JUDGE_{name.upper()}": value for name, value in settings.items()})

    def wait_ready(self, seconds: float = _PATIENCE_SECONDS) -> None:
        """Until /readyz says yes."""
        self.wait_for(lambda: self.answers("/readyz"), seconds)

    def score(self, items: Sequence[dict[str, Any]], timeout: float = 60) -> httpx.Response:
        """POST /v1/score."""
        return self.post("/v1/score", {"items": list(items)}, timeout)


class EngineProcess(Process):
    """vLLM with a version's model, as the container `server` starts it on a machine without a GPU."""

    def __init__(self, directory: Path, log: Path, prefix: Path, port: int | None = None) -> None:
        """prefix: vLLM's Python environment."""
        port = port or free_port()
        command = [str(prefix / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(directory), "--served-model-name", "scorer", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--runner", "pooling", "--dtype", "float32", "--enforce-eager"]
        super().__init__(command, port, log, engine_env())

    def wait_ready(self) -> None:
        """Until vLLM says that it lives."""
        self.wait_for(lambda: self.answers("/health"), _ENGINE_SECONDS)


def _environment() -> dict[str, str]:
    """This process's, with byte code kept: vLLM starts in a third of the time from it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": str(cache_root() / "pycache"), **kept}


def engine_env() -> dict[str, str]:
    """The environment of the container `server` without a GPU."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return {**CPU_ENGINE, **offline, "VLLM_PLUGINS": "rlhf"}

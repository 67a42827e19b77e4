"""An operator as a process of its own: started, asked for health and metrics, stopped, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
from prometheus_client.parser import text_string_to_metric_families

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], seconds: float = 60.0, every: float = 0.05) -> T:
    """Look until something true is seen; TimeoutError tells what was seen last."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s; last seen: {seen!r}")
        time.sleep(every)


def busy() -> bool:
    """Whether more wants to run than there are processors: a clock then measures the others."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


@dataclass(frozen=True)
class Sample:
    """One line of /metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


class OperatorProcess:
    """One operator process. Its log is kept beside its port file; `log()` reads it."""

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        *,
        command: Sequence[str] = (sys.executable, "-m", "rlhf_operator"),
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._port_file = folder / "port"
        self._port_file.unlink(missing_ok=True)
        self.log_file = folder / "log"
        values = {
            "KUBECONFIG": str(kubeconfig),
            "HEALTH_HOST": "127.0.0.1",
            "HEALTH_PORT": "0",
            "HEALTH_PORT_FILE": str(self._port_file),
            **(settings or {}),
        }
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RLHF_OPERATOR_", "POD_NAME"))}
        env |= {f"RLHF_OPERATOR_{key}": value for key, value in values.items()}
        env |= environment or {}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.started_at = time.monotonic()

    def __enter__(self) -> OperatorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def log(self) -> str:
        """Everything logged so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @contextmanager
    def sound(self) -> Iterator[None]:
        """What it logs meanwhile has no traceback."""
        before = len(self.log())
        yield
        log = self.log()[before:]
        assert "Traceback" not in log, log

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a path of the health server; (0, words) when nobody answers."""
        try:
            port = self._port_file.read_text(encoding="utf-8")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, ValueError) as error:
            return 0, str(error)

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Until /readyz is 200."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the operator ended with {self.process.returncode}:\n{self.log()[-4000:]}")
            return self.get("/readyz")[0] == 200

        wait_for("the operator's readiness", ready, seconds)

    def samples(self) -> list[Sample]:
        """All of /metrics."""
        code, text = self.get("/metrics")
        if code != 200:
            raise AssertionError(f"/metrics: {code} {text}")
        return [
            Sample(sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over everything that has these labels."""
        found = [s for s in self.samples() if s.name == name and all(s.labels.get(k) == v for k, v in labels.items())]
        return sum(sample.value for sample in found)

    def calls(self) -> dict[str, int]:
        """Requests to the API server by verb; those about the Lease are under `lease`."""
        verbs: dict[str, int] = {}
        for sample in self.samples():
            if sample.name == "rlhf_operator_api_requests_total":
                verb = "lease" if sample.labels["resource"].startswith("leases") else sample.labels["verb"]
                verbs[verb] = verbs.get(verb, 0) + int(sample.value)
        return verbs

    def writes(self) -> int:
        """Requests that change something, the Lease aside."""
        return sum(count for verb, count in self.calls().items() if verb in ("create", "update", "patch", "delete"))

    def leads(self) -> bool:
        """Whether it holds the Lease."""
        return self.metric("rlhf_operator_leader") == 1.0

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Resident memory."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def terminate(self, seconds: float = 30.0) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()

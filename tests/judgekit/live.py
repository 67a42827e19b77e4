"""A live judge behind a real socket, in the test's process or in one of its own, and what its /metrics say."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from judgekit.local import listening
from judgekit.process import Process, free_port
from rlhf_operator.api.signals import JUDGE_PLAN_FILE, JudgePlan, LiveBatch, LiveSample
from rlhf_server.livejudge.app import build_app
from rlhf_server.livejudge.service import LiveJudge
from rlhf_server.livejudge.settings import Settings

KEY = "s" * 40
_PATIENCE_SECONDS = 30.0


class Live:
    """A live judge as serving pods and Prometheus see it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def write(self, plan: JudgePlan | str) -> None:
        """Another plan, as a ConfigMap's file changes: at once and whole."""
        write(self._folder, plan)

    def send(self, samples: Sequence[LiveSample]) -> httpx.Response:
        """One batch, as serving pods send it."""
        return self.post(LiveBatch(samples=list(samples)).model_dump_json(by_alias=True).encode())

    def post(self, body: bytes) -> httpx.Response:
        """One body."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        return self._client.post("/v1/samples", content=body, headers=headers)

    def get(self, path: str) -> httpx.Response:
        """One GET."""
        return self._client.get(path)

    def scrape(self) -> list[tuple[str, dict[str, str], float]]:
        """Every series as Prometheus reads it."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return [(each.name, each.labels, each.value) for family in families for each in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels."""
        return sum(value for found, has, value in self.scrape() if found == name and labels.items() <= has.items())

    def wait_until(self, condition: Callable[[], bool], seconds: float = _PATIENCE_SECONDS) -> None:
        """Until it holds; fails with what was counted."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, [(name, has, value) for name, has, value in self.scrape() if value]
            time.sleep(0.02)

    def wait_for(self, count: float, name: str, **labels: str) -> None:
        """Until the sum of these series is that much; each wait scrapes, so that new series begin to count."""
        self.wait_until(lambda: self.sum(name, **labels) >= count)
        assert self.sum(name, **labels) == count

    def wait_ready(self) -> None:
        """Until it says so."""
        self.wait_until(lambda: self.get("/readyz").status_code == httpx.codes.OK)


def write(folder: Path, plan: JudgePlan | str) -> Path:
    """judge.json in the folder."""
    text = plan if isinstance(plan, str) else plan.model_dump_json(by_alias=True, exclude_none=True)
    new = folder / "judge.json.new"
    new.write_text(text)
    return new.replace(folder / JUDGE_PLAN_FILE)


def keys(folder: Path, *keys: str) -> Path:
    """The keys that are taken, as a Secret's file changes."""
    new = folder / "samples.new"
    new.write_text("\n".join(keys or (KEY,)))
    return new.replace(folder / "samples")


@contextlib.contextmanager
def judging(folder: Path, plan: JudgePlan | str | None, **settings: Any) -> Iterator[Live]:
    """A live judge in this process. Polls soon, so that tests do not wait."""
    if plan is not None:
        write(folder, plan)
    chosen = {"plan_poll_seconds": 0.05, "retry_seconds": 0.05, "ask_seconds": 5.0, **settings}
    judge = LiveJudge(Settings(plan=folder / JUDGE_PLAN_FILE, keys=keys(folder), **chosen))
    with listening(build_app(judge)) as (url, _):
        live = Live(url, folder)
        try:
            yield live
        finally:
            live.close()


class LiveProcess(Process):
    """`python -m rlhf_server.livejudge`, as its pod runs it."""

    def __init__(self, folder: Path, log: Path, port: int = 0, **settings: str) -> None:
        port = port or free_port()
        arguments = {"plan": str(folder / JUDGE_PLAN_FILE), "host": "127.0.0.1", "port": str(port)}
        arguments |= {"keys": str(keys(folder)), "plan_poll_seconds": "0.1", "retry_seconds": "0.1", **settings}
        options = [part for name, value in arguments.items() for part in (f"--{name.replace('_', '-')}", value)]
        super().__init__([sys.executable, "-m", "rlhf_server.livejudge", *options], port, log, {})
        self.live = Live(self.url, folder)

    def __exit__(self, *error: object) -> None:
        self.live.close()
        super().__exit__(*error)

    def wait_ready(self) -> None:
        """Until it says so; fails with the end of its log when it ends first."""
        self.wait_for(lambda: self.answers("/readyz"))

"""Exchanges and workers for tests of recording: real processes, real files, nothing redacted unless asked."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_operator.api.signals import RequestOutcome, Role
from rlhf_server.live.exchange import Exchange, Kind
from rlhf_server.live.frames import WorkerSettings

KEY = b"k" * 32
START = 1_800_000_000.0


def exchange(number: int = 0, **changes: Any) -> Exchange:
    """One chat request and its answer."""
    made: dict[str, Any] = {
        "request_id": f"req-{number}",
        "role": Role.LIVE,
        "revision": "5f3c9",
        "served": "5f3c9",
        "kind": Kind.CHAT,
        "outcome": RequestOutcome.OK,
        "status": 200,
        "request": {"model": "helper", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.7},
        "headers": {},
        "slices": {"team": "", "feature": "", "cohort": "", "language": ""},
        "answer": "good day",
        "answer_cut": False,
        "finish_reason": "stop",
        "tool_calls": [],
        "input_tokens": 3,
        "output_tokens": 2,
        "mean_log_prob": None,
        "streamed": True,
        "started_at": START + number,
        "seconds": 1.5,
        "first_token_seconds": 0.25,
    }
    return Exchange(**{**made, **changes})


def worker_settings(folder: Path, **changes: Any) -> WorkerSettings:
    """A pod's folders, with a volume."""
    keys = folder / "pseudonym"
    keys.write_bytes(KEY)
    (folder / "volume").mkdir(exist_ok=True)
    made: dict[str, Any] = {
        "namespace": "shop",
        "rollout": "helper",
        "pod": "helper-5f3c9-x1",
        "artifact_digest": "sha256:" + "a" * 64,
        "volume": folder / "volume",
        "spool": folder / "spool",
        "pseudonym_keys": keys,
        "retry_seconds": 0.05,
    }
    return WorkerSettings(**{**made, **changes})


def lines(folder: Path, kind: str = "trajectories") -> list[dict[str, Any]]:
    """Every line that was written, whole files first."""
    there = folder / "volume" / kind
    while True:
        paths = sorted(there.glob("*.jsonl")) + sorted(there.glob(".*.part"))
        try:
            return [json.loads(line) for path in paths for line in path.read_text().splitlines()]
        except FileNotFoundError:
            # A part got its name meanwhile.
            continue


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        await asyncio.sleep(0.01)

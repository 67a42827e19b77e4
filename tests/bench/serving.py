"""What live signals cost a user: a real vLLM with them, beside one without, under the same load in turn.

The load is half of what bare vLLM sustains here (at most 100 requests/s), at random times; answers are streamed, of 64
tokens.
Every request is judged and recorded, and the judge is in turn well, silent, lying and refusing. Each round takes both
sides, the other one first each time; the figure is the median of the rounds' ratios. Settings for comparisons:
BENCH_ROUNDS (10), BENCH_SECONDS (10, a side and round).
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.harness import Report, Row, percentile
from servekit import policy
from servekit.judges import FakeJudge, judging
from servekit.process import NAME, PolicyServer
from testbed import serverenv

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "10"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))
TOKENS = 64
MOST_PER_SECOND = 100.0
_CLIENTS = 32
_CALIBRATION_SECONDS = 10.0
_WARM_SECONDS = 4.0
_TROUBLES: Sequence[dict[str, Any]] = ({}, {"silent": True}, {"endless": True}, {"status": 500})
_BODY = {
    "model": NAME,
    "messages": [{"role": "user", "content": "w1 w2 w3 w4 w5 w6 w7 w8"}],
    "max_tokens": TOKENS,
    "ignore_eos": True,
    "stream": True,
}


@dataclass
class Side:
    """What the users of one of the two saw, by round."""

    rounds: list[list[float]] = field(default_factory=list)
    failed: int = 0

    def p95(self) -> list[float]:
        """Seconds, by round."""
        return [percentile(latencies, 95) for latencies in self.rounds]


def run() -> Report:
    """Measure both sides."""
    prefix = serverenv.ensure()
    with tempfile.TemporaryDirectory(prefix="rlhf-bench-") as scratch, judging(FakeJudge()) as judge:
        folder = Path(scratch)
        model = policy.make(folder / "model")
        signals = {
            "judge": judge.url,
            "judgeSampleRate": 1.0,
            "trajectorySampleRate": 1.0,
            "slices": {"team": ["search"]},
        }
        with (
            PolicyServer(model, folder / "with", prefix, signals=signals) as ours,
            PolicyServer(model, folder / "without", prefix, bare=True) as bare,
        ):
            ours.wait_ready()
            bare.wait_ready()
            sustained, rate, with_signals, without = asyncio.run(_measure(ours, bare, judge))
    return _report(sustained, rate, with_signals, without)


async def _measure(ours: PolicyServer, bare: PolicyServer, judge: FakeJudge) -> tuple[float, float, Side, Side]:
    with_signals, without = Side(), Side()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for server in (ours, bare):
            await _sustained(session, server.url, _WARM_SECONDS)
        sustained = await _sustained(session, bare.url, _CALIBRATION_SECONDS)
        rate = min(sustained / 2, MOST_PER_SECOND)
        for number in range(ROUNDS):
            _trouble(judge, _TROUBLES[number % len(_TROUBLES)])
            sides = [(ours, with_signals), (bare, without)]
            for server, side in sides if number % 2 else sides[::-1]:
                # The same arrivals for both.
                await _load(session, server.url, rate, random.Random(number), side)
    _trouble(judge, {})
    return sustained, rate, with_signals, without


def _trouble(judge: FakeJudge, trouble: dict[str, Any]) -> None:
    judge.silent, judge.endless = trouble.get("silent", False), trouble.get("endless", False)
    judge.status = trouble.get("status", 202)


async def _sustained(session: aiohttp.ClientSession, url: str, seconds: float) -> float:
    """Answers per second when every client asks as soon as it was answered."""
    ends = time.monotonic() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.monotonic() < ends:
            await _ask(session, url)
            done += time.monotonic() <= ends

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return done / seconds


async def _load(session: aiohttp.ClientSession, url: str, rate: float, source: random.Random, side: Side) -> None:
    """Requests at random times, whatever becomes of those before."""
    latencies: list[float] = []

    async def one(after: float) -> None:
        await asyncio.sleep(after)
        began = time.monotonic()
        if await _ask(session, url):
            latencies.append(time.monotonic() - began)
        else:
            side.failed += 1

    times: list[float] = []
    at = source.expovariate(rate)
    while at < SECONDS:
        times.append(at)
        at += source.expovariate(rate)
    await asyncio.gather(*(one(after) for after in times))
    side.rounds.append(latencies)


async def _ask(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether the answer came whole."""
    try:
        async with session.post(
            f"{url}/v1/chat/completions", json=_BODY, headers={"x-rlhf-team": "search"}
        ) as response:
            body = await response.read()
            return response.status == 200 and body.endswith(b"data: [DONE]\n\n") and b'"error"' not in body
    except (aiohttp.ClientError, TimeoutError):
        return False


def _report(sustained: float, rate: float, ours: Side, bare: Side) -> Report:
    ratios = [one / other for one, other in zip(ours.p95(), bare.p95(), strict=True)]
    everything = [latency for latencies in ours.rounds for latency in latencies]
    bare_everything = [latency for latencies in bare.rounds for latency in latencies]
    rows = [
        Row("added_p95_ratio", "p95 with live signals / without, median", statistics.median(ratios), "<= 1.02"),
        Row("failed_requests", "requests that failed with live signals", ours.failed, "0"),
        Row("failed_requests_bare", "requests that failed without", bare.failed),
        Row("sustained_rps", "requests/s that bare vLLM sustains", sustained),
        Row("rate_rps", "requests/s of the load", rate),
        Row("p95_seconds", "answer of 64 tokens with, p95, s", percentile(everything, 95)),
        Row("bare_p95_seconds", "the same without, p95, s", percentile(bare_everything, 95)),
        Row("requests", "requests a side", len(everything)),
    ]
    notes = [
        f"{ROUNDS} rounds of {SECONDS:g} s a side; ratios from {min(ratios):.3f} to {max(ratios):.3f}",
        "judge in turn well, silent, never ending its answer, refusing; all requests judged and recorded",
        "a tiny model: vLLM's own work for a token is small here, so that a share of it is a strict measure",
    ]
    return Report(rows, notes, {"ratios": ratios, "rounds": ROUNDS, "seconds": SECONDS})

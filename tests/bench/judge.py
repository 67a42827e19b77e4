"""The judge under 50 clients, beside vLLM asked directly with the same texts in the same run.

An encoder with random weights, of MiniLM's shape (6 layers of 384) or, with BENCH_TINY=1, so small that only what
surrounds the model is measured. Settings for comparisons: BENCH_CLIENTS (50), BENCH_ITEMS (8), BENCH_SECONDS (20), two
rounds of each side in turn.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.harness import Report, Row, percentile
from judgekit.models import MINILM, Kind, as_version, make
from judgekit.process import EngineProcess, JudgeProcess
from judgekit.versions import Version
from testbed import serverenv

CLIENTS = int(os.environ.get("BENCH_CLIENTS", "50"))
ITEMS = int(os.environ.get("BENCH_ITEMS", "8"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "20"))
TINY = bool(os.environ.get("BENCH_TINY"))
ROUNDS = 2
PROMPT_WORDS, RESPONSE_WORDS = 16, 32
_WARM_SECONDS = 3.0

Body = dict[str, Any]


@dataclass
class Side:
    """What one of the two took."""

    texts: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def rate(self) -> float:
        """Texts per second."""
        return self.texts / self.seconds


def run() -> Report:
    """Measure both sides."""
    prefix = serverenv.ensure()
    with tempfile.TemporaryDirectory(prefix="rlhf-bench-") as scratch:
        folder = Path(scratch)
        version = as_version(make(folder / "model", Kind.ENCODER, 1, shape=None if TINY else MINILM), 1)
        with EngineProcess(version.directory, folder / "vllm.log", prefix) as engine:
            engine.wait_ready()
            python = str(prefix / "bin" / "python")
            with JudgeProcess(version, folder / "judge.log", engine.url, python) as judge:
                judge.wait_ready()
                asked, direct = asyncio.run(_measure(version, judge, engine))
                memory = judge.rss_bytes()
    return _report(asked, direct, memory)


async def _measure(version: Version, judge: JudgeProcess, engine: EngineProcess) -> tuple[Side, Side]:
    texts = [_text(number) for number in range(CLIENTS * ITEMS)]
    scored = [{"items": texts[at : at + ITEMS]} for at in range(0, len(texts), ITEMS)]
    classified = await asyncio.to_thread(_as_ids, version, scored)
    asked, direct = Side(), Side()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(ROUNDS):
            await _load(session, f"{engine.url}/rlhf/classify", classified, direct)
            await _load(session, f"{judge.url}/v1/score", scored, asked)
    return asked, direct


async def _load(session: aiohttp.ClientSession, url: str, bodies: Sequence[Body], side: Side) -> None:
    """Every client asks as soon as it was answered; the first seconds don't count."""
    begins = time.monotonic() + _WARM_SECONDS
    ends = begins + SECONDS

    async def client(body: Body) -> None:
        while (started := time.monotonic()) < ends:
            async with session.post(url, json=body) as response:
                await response.read()
            done = time.monotonic()
            if not begins <= done <= ends:
                continue
            if response.status != 200:
                side.refused += 1
                continue
            side.texts += ITEMS
            side.latencies.append(done - started)

    work: list[Awaitable[None]] = [client(body) for body in bodies]
    await asyncio.gather(*work)
    side.seconds += SECONDS


def _text(number: int) -> dict[str, str]:
    def words(count: int, step: int) -> str:
        return " ".join(f"w{(number * step + place * 7) % 200}" for place in range(count))

    return {"prompt": words(PROMPT_WORDS, 3), "response": words(RESPONSE_WORDS, 11)}


def _as_ids(version: Version, scored: Sequence[Body]) -> list[Body]:
    """The same requests as vLLM takes them."""
    from rlhf_scoring.reward_model import RewardScorer

    scorer = RewardScorer("bench", version.directory)
    bodies = []
    for body in scored:
        inputs = [scorer.encode(item["prompt"], item["response"]) for item in body["items"]]
        bodies.append(
            {
                "input": [each.input_ids for each in inputs],
                "second_segment": [each.token_type_ids.index(1) for each in inputs],
            }
        )
    scorer.close()
    return bodies


def _report(asked: Side, direct: Side, memory: int) -> Report:
    rows = [
        Row("texts_per_second", "texts/s through the judge", asked.rate),
        Row("direct_texts_per_second", "texts/s, vLLM asked directly", direct.rate),
        Row("share_of_direct", "judge over direct", asked.rate / direct.rate),
        Row("p50_ms", f"request of {ITEMS} texts, p50, ms", 1e3 * percentile(asked.latencies, 50)),
        Row("p95_ms", f"request of {ITEMS} texts, p95, ms", 1e3 * percentile(asked.latencies, 95)),
        Row("direct_p50_ms", "the same, vLLM directly, p50, ms", 1e3 * percentile(direct.latencies, 50)),
        Row("direct_p95_ms", "the same, vLLM directly, p95, ms", 1e3 * percentile(direct.latencies, 95)),
        Row("refused", "requests refused (429, 503)", asked.refused + direct.refused),
        Row("judge_rss_mb", "judge's resident memory, 10^6 bytes", memory / 1e6),
    ]
    model = "a tiny model" if TINY else "a model of MiniLM's shape"
    notes = [
        f"{model}, {CLIENTS} clients, {ITEMS} texts a request of {PROMPT_WORDS} + {RESPONSE_WORDS} words",
        f"{ROUNDS} rounds of {SECONDS:g} s a side, in turn; clients, judge and vLLM share the machine",
    ]
    return Report(rows, notes, {"clients": CLIENTS, "items": ITEMS, "seconds": SECONDS})

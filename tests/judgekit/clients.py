"""Many clients of one judge at once, which hold every number that they get against what is right."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Self

import httpx
import pytest

from judgekit.models import PAIRS, in_process
from judgekit.process import JudgeProcess
from judgekit.versions import Version

CLIENTS = 50
TOLERANCE = 1e-3


class Clients:
    """Clients that score the same few texts for as long as they may, and hold every number against what is right."""

    def __init__(self, judge: JudgeProcess, version: Version, items_each: int) -> None:
        self.outcomes: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.retry_after: list[int] = []
        self._items = items_each
        self._expected = in_process(version, PAIRS)
        self._version = version.digest
        self._url = judge.url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive(), "a client hangs"

    def _run(self, number: int) -> None:
        chosen = [(number + step) % len(PAIRS) for step in range(self._items)]
        body = {"items": [{"prompt": PAIRS[at][0], "response": PAIRS[at][1]} for at in chosen]}
        with httpx.Client(base_url=self._url, timeout=90, trust_env=False) as client:
            while not self._stop.is_set():
                self._note(client.post("/v1/score", json=body), chosen)

    def _note(self, response: httpx.Response, chosen: list[int]) -> None:
        wrong: list[str] = []
        if response.status_code == 200:
            answer = response.json()
            if answer["version"] != self._version or len(answer["scores"]) != len(chosen):
                wrong.append(f"{answer['version']}, {len(answer['scores'])} scores")
            for score, at in zip(answer["scores"], chosen, strict=False):
                if score["dimensions"] != pytest.approx(self._expected[at], abs=TOLERANCE):
                    wrong.append(f"{score['dimensions']} for {self._expected[at]}")
        with self._lock:
            self.outcomes[response.status_code] += 1
            self.wrong += wrong
            if response.status_code in (429, 503):
                self.retry_after.append(int(response.headers["retry-after"]))
        if response.status_code != 200:
            # Sooner than Retry-After asks: the test wants pressure, and no busy loop.
            self._stop.wait(0.2)

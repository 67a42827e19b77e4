"""The live judge as its pod runs it: killed in the middle, started again, ended in order."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from judgekit.live import KEY, LiveProcess, write
from judgekit.samples import NOT_BAD, SHORTER, pair, plan, sample, scorer
from rlhf_operator.api import signals
from rlhf_operator.api.signals import LiveBatch

PLAN = plan(scorer("wins", "WinRate", SHORTER), scorer("safe", "Violation", NOT_BAD, threshold=0.5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, PLAN)
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def judge(folder: Path) -> Iterator[LiveProcess]:
    with LiveProcess(folder, folder / "first.log", state=str(folder / "state")) as process:
        process.wait_ready()
        yield process


def test_what_was_counted_before_a_restart_is_not_counted_again(judge: LiveProcess, folder: Path) -> None:
    counted = pair("a", "bad bad", "x")
    judge.live.send([*counted, sample("half")])
    judge.live.wait_for(1, signals.WINS)
    judge.live.wait_for(3, signals.JUDGED)
    judge.kill()
    with LiveProcess(folder, folder / "second.log", state=str(folder / "state")) as again:
        again.wait_ready()
        again.live.send([*counted, *pair("b"), sample("half", "shadow")])
        again.live.wait_for(1, signals.WINS)
        again.live.wait_for(3, signals.JUDGED)
        again.live.wait_for(2, "rlhf_live_judge_samples_total", outcome="resent")
        again.live.wait_for(1, signals.UNPAIRED, reason="restart", role="shadow")
        assert again.live.sum(signals.VIOLATIONS) == 0
        again.signal(signal.SIGTERM)
        assert again.wait() == 0


class Scraper:
    """Prometheus as far as increase() goes: differences between scrapes, a fall is a restart."""

    def __init__(self) -> None:
        self.total = 0.0
        self._last: dict[str, float] = {}

    def scrape(self, process: LiveProcess) -> None:
        try:
            found = {
                str(sorted(has.items())): value for name, has, value in process.live.scrape() if name == signals.WINS
            }
        except httpx.TransportError:
            return
        for series, value in found.items():
            if series in self._last:
                last = self._last[series]
                self.total += value - last if value >= last else value
            self._last[series] = value


class Sender:
    """A serving pod that sends again whatever it has had no answer to, and more: some 40 pairs when a judge is gone."""

    def __init__(self, url: str, pairs: int) -> None:
        self._url = url
        self._batches = [
            LiveBatch(samples=[*pair(f"{n}-a"), *pair(f"{n}-b")]).model_dump_json(by_alias=True).encode()
            for n in range(pairs // 2)
        ]
        self.sent = 0
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=self._url, headers=headers, trust_env=False, timeout=5) as client:
            at = 0
            while at < len(self._batches):
                try:
                    taken = client.post("/v1/samples", content=self._batches[at]).status_code == httpx.codes.ACCEPTED
                except httpx.TransportError:
                    at = max(0, self.sent // 2 - 20)
                    continue
                at += taken
                self.sent = max(self.sent, 2 * at)


def test_a_judge_that_is_killed_under_load_counts_no_pair_twice(judge: LiveProcess, folder: Path) -> None:
    pairs = 600
    sender, prometheus = Sender(judge.url, pairs), Scraper()
    judge.live.send(pair("warm"))
    judge.live.wait_for(1, signals.WINS)
    prometheus.scrape(judge)
    before = prometheus.total
    sender.start()
    judge.wait_for(lambda: sender.sent > pairs / 4)
    prometheus.scrape(judge)
    judge.kill()
    with LiveProcess(folder, folder / "second.log", port=judge.port, state=str(folder / "state")) as again:
        again.wait_ready()

        def all_sent() -> bool:
            prometheus.scrape(again)
            return sender.sent == pairs

        again.wait_for(all_sent)
        sender.join()
        again.wait_for(lambda: again.live.sum("rlhf_live_judge_queue_depth") == 0)
        for _ in range(2):
            prometheus.scrape(again)
    counted = prometheus.total - before
    assert pairs / 2 < counted <= pairs, f"{counted} of {pairs} pairs"


def test_what_was_taken_is_scored_before_it_ends(folder: Path) -> None:
    slow = {"python": {"configMap": {"name": "g", "key": "slow.py"}}}
    code = folder / "slow.py"
    code.write_text(
        "import time\n\ndef grade(prompt, response, row):\n    time.sleep(0.2)\n"
        f"    open({str(folder / 'scored')!r}, 'a').write('x')\n    return 1.0\n"
    )
    write(folder, plan(scorer("reward", "Reward", slow, graderPath=str(code))))
    with LiveProcess(folder, folder / "slow.log") as process:
        process.wait_ready()
        assert process.live.send([sample(f"r{n}") for n in range(5)]).status_code == 202
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert (folder / "scored").read_text() == "xxxxx"


def test_a_scorer_that_hangs_does_not_keep_it_from_ending(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        model = {"name": "helpful", "url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        write(folder, plan({"name": "reward", "purpose": "Reward", "rewardModel": model}))
        with LiveProcess(folder, folder / "hangs.log", drain_seconds="0.2") as process:
            process.wait_for(lambda: process.answers("/livez"))
            assert not process.answers("/readyz")
            assert process.live.send([sample("a")]).status_code == 202
            process.signal(signal.SIGTERM)
            started = time.monotonic()
            assert process.wait() == 0
            assert time.monotonic() - started < 8


def test_without_a_key_it_does_not_start(folder: Path) -> None:
    with LiveProcess(folder, folder / "keyless.log", keys=str(folder / "nowhere")) as process:
        assert process.wait() == 2
        assert "nowhere" in process.tail()


def test_a_setting_that_is_none_ends_it_with_its_name(folder: Path) -> None:
    with LiveProcess(folder, folder / "bad.log", batch="0") as process:
        assert process.wait() == 2
        assert "setting batch" in process.tail()

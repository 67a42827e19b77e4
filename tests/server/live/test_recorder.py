"""Recording by a real worker process: nothing waits for it, nothing is doubled, and what is lost is counted."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from recordkit import exchange, lines, until, worker_settings
from rlhf_operator.api.policyrollout import Redaction
from rlhf_operator.api.signals import Role, SignalSettings
from rlhf_server.live import recorder as module
from rlhf_server.live.exchange import Kind
from rlhf_server.live.recorder import Recorder, WorkerGone

OFF = SignalSettings(redaction=Redaction.OFF, trajectory_sample_rate=1.0)
FEEDBACK = {
    "namespace": "shop",
    "rollout": "helper",
    "pod": "p",
    "schemaVersion": "1",
    "requestId": "req-1",
    "revision": "5f3c9",
    "receivedAt": "2027-01-15T08:00:00+00:00",
    "slices": {},
    "feedback": {"thumbs": "down", "user": "anna"},
}
Dropped = Counter[tuple[str, str]]


@asynccontextmanager
async def recording(
    folder: Path, expired: list[int] | None = None, **changes: Any
) -> AsyncIterator[tuple[Recorder, Dropped]]:
    dropped: Dropped = Counter()
    expired = [] if expired is None else expired

    def count(role: Role, reason: str) -> None:
        dropped[role.value, reason] += 1

    made = Recorder(worker_settings(folder, **changes), lambda: OFF, count, expired.append)
    await made.start()
    try:
        yield made, dropped
    finally:
        await made.close()


def written(folder: Path) -> Callable[[], int]:
    return lambda: len(lines(folder)) if (folder / "volume" / "trajectories").exists() else 0


async def test_what_is_offered_is_written_and_the_files_have_their_names_at_the_end(tmp_path: Path) -> None:
    async with recording(tmp_path) as (recorder, dropped):
        for number in range(300):
            recorder.offer(exchange(number))
        recorder.offer(exchange(999, kind=Kind.OTHER))
    assert [line["rlhf.request.id"] for line in lines(tmp_path)] == [f"req-{number}" for number in range(300)]
    assert not list((tmp_path / "volume" / "trajectories").glob(".*"))
    assert not dropped


async def test_offering_never_waits_and_drops_what_memory_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAITING", 50)
    async with recording(tmp_path) as (recorder, dropped):
        started = time.perf_counter()
        for number in range(200):
            recorder.offer(exchange(number, role=Role.SHADOW))
        recorder.offer(exchange(1, answer="x" * 2_000_000))
        assert time.perf_counter() - started < 1
        assert dropped == {("shadow", "behind"): 150, ("live", "too_large"): 1}
    assert len(lines(tmp_path)) == 50


async def test_a_killed_worker_is_replaced_and_what_it_held_is_counted(tmp_path: Path) -> None:
    async with recording(tmp_path) as (recorder, dropped):
        recorder.offer(exchange(0))
        await until(lambda: written(tmp_path)() == 1 and not recorder._under_way)
        pid = recorder.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        for number in range(1, 4):
            recorder.offer(exchange(number))
        await until(lambda: len(recorder._under_way) == 3)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: sum(dropped.values()) == 3)
        recorder.offer(exchange(4))
        await until(lambda: written(tmp_path)() == 2)
    assert dropped == {("live", "worker_lost"): 3}
    ids = [line["rlhf.request.id"] for line in lines(tmp_path)]
    assert ids == ["req-0", "req-4"]


async def test_killed_again_and_again_under_load_nothing_is_doubled_or_half_written(tmp_path: Path) -> None:
    total = 0
    async with recording(tmp_path, file_bytes=5_000) as (recorder, dropped):
        for _ in range(3):
            await until(lambda: recorder.pid is not None)
            before = written(tmp_path)()
            for number in range(total, total + 200):
                recorder.offer(exchange(number))
            total += 200
            await until(lambda before=before: written(tmp_path)() > before)  # type: ignore[misc]
            if recorder.pid is not None:
                os.kill(recorder.pid, signal.SIGKILL)
    found = lines(tmp_path)
    ids = [line["rlhf.record.id"] for line in found]
    assert len(ids) == len(set(ids))
    # What was written and not yet told is counted as lost too: never fewer than were really lost.
    assert total - sum(dropped.values()) <= len(ids) <= total
    # On a busy machine the last worker may start too late for what still waits at the end.
    assert set(dropped) <= {("live", "worker_lost"), ("live", "stopped")}


async def test_the_volume_away_and_back(tmp_path: Path) -> None:
    async with recording(tmp_path) as (recorder, _dropped):
        recorder.offer(exchange(0))
        await until(lambda: written(tmp_path)() == 1)
    (tmp_path / "volume").rename(tmp_path / "away")
    settings = worker_settings(tmp_path)
    (tmp_path / "volume").rmdir()
    counts: Dropped = Counter()
    recorder = Recorder(settings, lambda: OFF, lambda role, reason: counts.update([(role.value, reason)]), [].append)
    await recorder.start()
    for number in range(1, 30):
        recorder.offer(exchange(number))
    await until(lambda: not recorder._under_way and not recorder._waiting.frames)
    assert list((tmp_path / "spool" / "0" / "trajectories").iterdir())
    (tmp_path / "away").rename(tmp_path / "volume")
    await until(lambda: written(tmp_path)() == 30)
    await recorder.close()
    assert not counts
    assert [line["rlhf.request.id"] for line in lines(tmp_path)] == [f"req-{number}" for number in range(30)]


async def test_feedback_is_answered_when_it_is_written_once_and_its_user_is_a_pseudonym(tmp_path: Path) -> None:
    async with recording(tmp_path) as (recorder, _):
        first = await recorder.keep(FEEDBACK)
        (line,) = lines(tmp_path, "feedback")
        assert line["feedback"]["user"].startswith("u_")
        assert line["redactionVersion"] == "1-Off"
        again, other, named, conflict = await asyncio.gather(
            recorder.keep(FEEDBACK),
            recorder.keep({**FEEDBACK, "feedback": {"thumbs": "up"}}),
            recorder.keep({**FEEDBACK, "feedback": {"thumbs": "up", "id": "a"}}),
            recorder.keep({**FEEDBACK, "feedback": {"thumbs": "down", "id": "a"}}),
        )
    assert (first.dropped, first.duplicate) == (None, False)
    assert again.duplicate
    assert not other.duplicate
    assert (named.dropped, conflict.dropped) == (None, "conflict")
    # A restart of the container remembers.
    async with recording(tmp_path) as (recorder, _):
        assert (await recorder.keep(FEEDBACK)).duplicate
    assert len(lines(tmp_path, "feedback")) == 3


async def test_feedback_without_a_volume_is_counted_only(tmp_path: Path) -> None:
    async with recording(tmp_path, volume=None) as (recorder, dropped):
        reply = await recorder.keep(FEEDBACK)
        recorder.offer(exchange(0))
        await until(lambda: bool(dropped))
    assert reply.counted_only
    assert dropped == {("live", "no_sink"): 1}


async def test_feedback_whose_worker_dies_is_told_so(tmp_path: Path) -> None:
    async with recording(tmp_path) as (recorder, _):
        await recorder.keep(FEEDBACK)
        assert recorder.pid is not None
        os.kill(recorder.pid, signal.SIGSTOP)
        asked = asyncio.ensure_future(recorder.keep({**FEEDBACK, "requestId": "req-2"}))
        await until(lambda: bool(recorder._under_way))
        os.kill(recorder.pid, signal.SIGKILL)
        with pytest.raises(WorkerGone):
            await asked
        assert (await recorder.keep({**FEEDBACK, "requestId": "req-2"})).dropped is None


async def test_a_full_spool_drops_and_says_so(tmp_path: Path) -> None:
    settings = worker_settings(tmp_path, spool_bytes=3_000)
    (tmp_path / "volume").rmdir()
    counts: Dropped = Counter()
    recorder = Recorder(settings, lambda: OFF, lambda role, reason: counts.update([(role.value, reason)]), [].append)
    await recorder.start()
    for number in range(20):
        recorder.offer(exchange(number))
        await until(lambda: not recorder._under_way and not recorder._waiting.frames)
    assert counts["live", "spool_full"] > 10
    assert (await recorder.keep(FEEDBACK)).dropped is None, "feedback has room of its own"
    await recorder.close()


async def test_what_a_pod_that_is_gone_has_left_is_deleted_when_it_is_over_and_counted(tmp_path: Path) -> None:
    async with recording(tmp_path, pod="gone") as (recorder, dropped):
        for number in range(3):
            recorder.offer(exchange(number, started_at=time.time() - SignalSettings().retention_seconds + 2))
        await until(lambda: written(tmp_path)() == 3)
        assert dropped == {}
    expired: list[int] = []
    async with recording(tmp_path, expired, pod="another", expiry_seconds=0.1) as (recorder, _):
        recorder.offer(exchange(9, started_at=time.time()))
        await until(lambda: sum(expired) == 3)
    assert [each["rlhf.request.id"] for each in lines(tmp_path)] == ["req-9"]

"""Files of records go when the last of them is over, and nothing else goes."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rlhf_server.live.expiry import Expiry

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def record(expires: float, **more: Any) -> str:
    return json.dumps({"rlhf.expires_at": datetime.fromtimestamp(expires, UTC).isoformat(), **more}) + "\n"


def file(folder: Path, *lines: str, pod: str = "a", number: int = 1, part: bool = False, idle: float = 0.0) -> Path:
    name = f"trajectories-{pod}-20270115T080000Z-{number:04d}.jsonl"
    path = folder / (f".{name}.part" if part else name)
    path.write_text("".join(lines))
    os.utime(path, (NOW - idle, NOW - idle))
    return path


def expiry(folder: Path, clock: Clock | None = None, **limits: Any) -> Expiry:
    return Expiry(folder, "trajectories", now=clock or Clock(), **limits)


def test_a_file_goes_with_its_last_record_whichever_pod_wrote_it(tmp_path: Path) -> None:
    over = [file(tmp_path, record(NOW - 1), record(NOW), pod=pod) for pod in ("a", "b")]
    # A retention that was shortened: the first of a file is not the last to be over.
    kept = file(tmp_path, record(NOW - 9), record(NOW + 5), record(NOW - 7), pod="c")
    assert expiry(tmp_path).tick() == 4
    assert [each.exists() for each in (*over, kept)] == [False, False, True]


def test_it_goes_once_its_time_has_come_and_not_before(tmp_path: Path) -> None:
    path, clock = file(tmp_path, record(NOW + 2 * DAY)), Clock()
    sweep = expiry(tmp_path, clock, pause_seconds=60)
    for later, there in ((0, True), (2 * DAY - 1, True), (2 * DAY, True), (2 * DAY + 60, False)):
        clock.now = NOW + later
        sweep.tick()
        assert path.exists() is there, later


@pytest.mark.parametrize(
    "line",
    ["no JSON\n", "[1]\n", "{}\n", '{"rlhf.expires_at": 3}\n', '{"rlhf.expires_at": "soon"}\n', ""],
)
def test_a_file_with_anything_else_in_it_is_not_ours_to_delete(tmp_path: Path, line: str) -> None:
    lines = [record(NOW - 9), line] if line else []
    path = file(tmp_path, *lines)
    assert expiry(tmp_path).tick() == 0
    assert path.exists()


def test_what_a_client_writes_into_a_record_does_not_change_its_time(tmp_path: Path) -> None:
    inside = {"rlhf.metadata": {"rlhf.expires_at": "9999-01-01T00:00:00+00:00"}}
    path = file(tmp_path, record(NOW - 9, **inside))
    assert expiry(tmp_path).tick() == 1
    assert not path.exists()


def test_other_names_and_links_are_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine.jsonl"
    elsewhere.write_text(record(NOW - 9))
    (tmp_path / "trajectories-a-20270115T080000Z-0001.jsonl").symlink_to(elsewhere)
    (tmp_path / "feedback-a-20270115T080000Z-0001.jsonl").write_text(record(NOW - 9))
    (tmp_path / "trajectories-a-20270115T080000Z-0001.jsonl.gz").write_text(record(NOW - 9))
    assert expiry(tmp_path).tick() == 0
    assert len(list(tmp_path.iterdir())) == 4


def test_a_part_goes_only_when_nobody_writes_to_it_any_more(tmp_path: Path) -> None:
    open_, left = (
        file(tmp_path, record(NOW - 9), '{"half', part=True, idle=idle, number=int(idle)) for idle in (3600, DAY)
    )
    waits = file(tmp_path, record(NOW + 9), '{"half', part=True, idle=9 * DAY)
    assert expiry(tmp_path).tick() == 1
    assert [each.exists() for each in (open_, left, waits)] == [True, False, True]


def test_one_tick_reads_no_more_than_it_may(tmp_path: Path) -> None:
    size = len(record(NOW - 9, text="x" * 1000))
    for number in range(10):
        file(tmp_path, *[record(NOW - 9, text="x" * 1000)] * 10, number=number)
    sweep = expiry(tmp_path, tick_bytes=25 * size, tick_files=1000)
    deleted = [sweep.tick() for _ in range(5)]
    assert sum(deleted) == 100
    assert max(deleted) <= 30, "what was begun in the tick before may come to its end in this one"


def test_a_file_that_stays_is_read_once_and_not_in_every_round(tmp_path: Path) -> None:
    path, clock = file(tmp_path, record(NOW + DAY)), Clock()
    sweep = expiry(tmp_path, clock, pause_seconds=10)
    sweep.tick()
    # Nobody does this to a whole file: it only shows whether the file is read.
    path.write_text(record(NOW - 9))
    clock.now += 20
    assert (sweep.tick(), path.exists()) == (0, True)
    clock.now = NOW + DAY
    assert (sweep.tick(), path.exists()) == (1, False)


def test_a_volume_that_is_away_is_looked_at_again(tmp_path: Path) -> None:
    folder, clock = tmp_path / "trajectories", Clock()
    sweep = expiry(folder, clock, pause_seconds=10)
    assert sweep.tick() == 0
    folder.mkdir()
    file(folder, record(NOW - 9))
    assert sweep.tick() == 0, "not before the pause is over"
    clock.now += 10
    assert sweep.tick() == 1

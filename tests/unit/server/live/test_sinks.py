"""Records get to their volume once, whole and in order: it is away and comes back, and processes are killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_server.live.sinks import FileSink, SinkAway, Spool, SpooledSink, SpoolFull, cut, read_lines

Record = dict[str, Any]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def records(first: int, last: int) -> list[Record]:
    return [{"recordId": f"r{number}", "text": "ä" * 20} for number in range(first, last)]


def kept(volume: Path) -> list[str]:
    """Ids of all whole lines, in the order of the files' names, parts last."""
    paths = sorted((volume / "t").glob("*.jsonl")) + sorted((volume / "t").glob(".*.part"))
    return [record["recordId"] for path in paths for record in read_lines(path)]


def numbered(first: int, last: int) -> list[str]:
    return [f"r{number}" for number in range(first, last)]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    return path


def sink_of(volume: Path, clock: Clock | None = None, **limits: Any) -> FileSink:
    return FileSink(volume / "t", "pod-a", now=clock or Clock(), **limits)


def spooled(volume: Path, spool: Path, clock: Clock | None = None, **limits: Any) -> SpooledSink:
    clock = clock or Clock()
    return SpooledSink(sink_of(volume), Spool(spool, **limits), retry_seconds=5, clock=clock)


def test_a_file_has_no_name_before_it_is_whole(volume: Path) -> None:
    sink = sink_of(volume)
    sink.append(records(0, 3))
    assert [path.name[0] for path in (volume / "t").iterdir()] == ["."]
    sink.close()
    (path,) = (volume / "t").iterdir()
    assert path.name == "pod-a-20270115T080000Z-0001.jsonl"
    assert [json.loads(line)["recordId"] for line in path.read_text().splitlines()] == numbered(0, 3)


def test_files_are_rotated_by_size_and_by_age(volume: Path) -> None:
    clock = Clock()
    sink = sink_of(volume, clock, max_bytes=100, max_seconds=60)
    sink.append(records(0, 2))
    sink.append(records(2, 3))
    clock.now += 61
    sink.rotate()
    sink.close()
    assert len(list((volume / "t").glob("*.jsonl"))) == 2
    assert kept(volume) == numbered(0, 3)


def test_a_quiet_file_gets_its_name_too(volume: Path, tmp_path: Path) -> None:
    clock = Clock()
    sink = SpooledSink(sink_of(volume, clock), Spool(tmp_path / "spool"), clock=clock)
    sink.append(records(0, 1))
    clock.now += 301
    sink.tick()
    assert len(list((volume / "t").glob("pod-a-*.jsonl"))) == 1


def test_what_was_half_written_is_taken_back(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = sink_of(volume)
    sink.append(records(0, 2))
    real = os.fsync
    calls = []

    def fails_once(file: int) -> None:
        calls.append(file)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fails_once)
    with pytest.raises(SinkAway, match="No space left"):
        sink.append(records(2, 4))
    assert kept(volume) == numbered(0, 2)
    sink.append(records(2, 4))
    sink.close()
    assert kept(volume) == numbered(0, 4)


def test_a_missing_volume_is_away_and_nothing_is_made_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(SinkAway):
        sink_of(tmp_path / "volume").append(records(0, 1))
    assert not (tmp_path / "volume").exists()


def test_while_the_volume_is_away_records_wait_and_follow_in_order(volume: Path, tmp_path: Path) -> None:
    clock = Clock()
    sink = spooled(volume, tmp_path / "spool", clock)
    sink.append(records(0, 2))
    away = tmp_path / "away"
    volume.rename(away)
    (tmp_path / "volume").write_text("not a directory")
    # What is open can be written on; the next file can't be made.
    sink._sink.close()
    for number in range(2, 6):
        sink.append(records(number, number + 1))
    assert sink.spooling
    (tmp_path / "volume").unlink()
    away.rename(volume)
    sink.append(records(6, 7))
    assert sink.spooling, "not asked again before its time"
    clock.now += 6
    sink.append(records(7, 8))
    assert not sink.spooling
    sink.close()
    assert kept(volume) == numbered(0, 8)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_restart_while_the_volume_is_away_loses_and_doubles_nothing(volume: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    volume.rename(away)
    spooled(volume, tmp_path / "spool").append(records(0, 3))
    second = spooled(volume, tmp_path / "spool")
    second.append(records(3, 4))
    away.rename(volume)
    third = spooled(volume, tmp_path / "spool")
    third.append(records(4, 5))
    third.close()
    assert kept(volume) == numbered(0, 5)


def test_a_kill_between_moving_and_forgetting_doubles_nothing(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "away"
    volume.rename(away)
    spooled(volume, tmp_path / "spool").append(records(0, 5))
    away.rename(volume)
    killed = spooled(volume, tmp_path / "spool")
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "discard", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            killed.tick()
    assert kept(volume) == numbered(0, 5)
    again = spooled(volume, tmp_path / "spool")
    again.append(records(5, 6))
    again.close()
    assert kept(volume) == numbered(0, 6)


def test_a_full_spool_says_so_and_keeps_what_it_has(volume: Path, tmp_path: Path) -> None:
    volume.rename(tmp_path / "away")
    sink = spooled(volume, tmp_path / "spool", max_bytes=400)
    sink.append(records(0, 2))
    with pytest.raises(SpoolFull):
        sink.append(records(2, 6))
    (tmp_path / "away").rename(volume)
    sink.close()
    assert kept(volume) == numbered(0, 2)


def test_segments_follow_each_other(volume: Path, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    volume.rmdir()
    sink = spooled(volume, tmp_path / "spool", segment_bytes=100)
    for number in range(20):
        sink.append(records(number, number + 1))
    assert len(list((tmp_path / "spool").iterdir())) > 5
    volume.mkdir()
    sink.close()
    assert kept(volume) == numbered(0, 20)


def test_a_half_line_is_no_record(volume: Path) -> None:
    (volume / "t").mkdir()
    part = volume / "t" / ".pod-a-20270115T080000Z-0001.jsonl.part"
    part.write_bytes(b'{"recordId":"r0"}\n{"recordId":"r1"}\n{"recordId":"r')
    foreign = volume / "t" / ".pod-a-b-20270115T080000Z-0001.jsonl.part"
    foreign.write_bytes(b'{"recordId":"theirs"}\n{"reco')
    sink = sink_of(volume)
    sink.append(records(2, 3))
    sink.close()
    assert not part.exists()
    assert foreign.read_bytes().endswith(b'{"reco'), "another pod may still be writing"
    assert kept(volume)[:3] == numbered(0, 3)


def test_cutting_a_file_without_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    cut(path)
    assert path.read_bytes() == b""


WRITER = """
import sys
from pathlib import Path
from rlhf_server.live.sinks import FileSink, Spool, SpooledSink
volume, spool, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
files = FileSink(volume / "t", "pod-a", max_bytes=20_000)
sink = SpooledSink(files, Spool(spool, segment_bytes=5_000), retry_seconds=0)
number = first
while True:
    sink.append([{"recordId": f"r{number}", "text": "x" * 300}])
    print(number, flush=True)
    number += 1
"""


def test_killed_in_the_middle_of_writing_again_and_again(volume: Path, tmp_path: Path) -> None:
    """Whatever was told to be kept is kept once; the one under way at the kill is there once or not at all."""
    first, told = 0, []
    for turn in range(6):
        # The volume is away in every other life.
        here = volume if turn % 2 == 0 else tmp_path / "volume-away" / "not-there"
        command = [sys.executable, "-c", WRITER, str(here), str(tmp_path / "spool"), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told += [int(process.stdout.readline()) for _ in range(60 + 7 * turn)]
            os.kill(process.pid, signal.SIGKILL)
            told += [int(line) for line in process.stdout.read().split()]
        # The one under way when it was killed may be kept: its number is not used again.
        first = told[-1] + 2
    last = spooled(volume, tmp_path / "spool")
    last.append([{"recordId": f"r{first}"}])
    last.close()
    found = kept(volume)
    assert len(found) == len(set(found))
    assert {f"r{number}" for number in [*told, first]} <= set(found)
    assert len(found) <= len(told) + 7
    for path in (volume / "t").iterdir():
        assert all(json.loads(line) for line in path.read_text().splitlines())

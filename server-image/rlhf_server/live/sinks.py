"""Where records go: JSON lines in files that are rotated, and a spool while their volume is away. No redaction here.

A sink is two functions: `append` returns when the records are safe, or raises SinkAway; `close` ends it. A file is
`.<stem>-<time>-<n>.jsonl.part` while it is written and `<stem>-<time>-<n>.jsonl` when it is whole; a part that a killed
process left is cut after its last whole line and gets its name when the same pod starts again.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

MIB = 1024 * 1024
RECORD_ID_KEYS = ("rlhf.record.id", "recordId")
_PART = ".part"
_CLOCKS_SECONDS = 3600.0
"""By how much the clocks of a file server and a pod may differ."""

Record = dict[str, Any]


class SinkAway(Exception):
    """The records could not be written; none of them was. They may be offered again."""


class SpoolFull(SinkAway):
    """The spool has no room either."""


class Sink(Protocol):
    """Keeps records."""

    def append(self, records: Sequence[Record]) -> None:
        """Keep them, all or none, safe against a crash when this returns. Raises SinkAway."""

    def close(self) -> None:
        """Finish what is open."""


class FileSink:
    """JSON lines in a directory on a volume, one writer per stem."""

    def __init__(
        self,
        directory: Path,
        stem: str,
        *,
        max_bytes: int = 64 * MIB,
        max_seconds: float = 300.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """The directory's parent must exist: it is the volume, and where that is away nothing is made in its place."""
        self._directory, self._stem = directory, stem
        self._max_bytes, self._max_seconds, self._now = max_bytes, max_seconds, now
        self._file: int | None = None
        self._path = directory
        self._bytes = self._count = 0
        self._opened_at = 0.0
        self._recovered = False

    def append(self, records: Sequence[Record]) -> None:
        """Write and fsync them; what was half written is taken back. Raises SinkAway."""
        lines = b"".join(_line(record) for record in records)
        try:
            self.rotate()
            if self._file is None:
                self._open()
            assert self._file is not None
            _write_all(self._file, lines)
            os.fsync(self._file)
        except OSError as error:
            self._give_up()
            raise SinkAway(f"{self._directory}: {error.strerror or error}") from error
        self._bytes += len(lines)

    def rotate(self) -> None:
        """Give a file that is large or old enough its name. Raises OSError."""
        due = self._bytes >= self._max_bytes or self._now() - self._opened_at >= self._max_seconds
        if self._file is not None and due:
            self._finish()

    def close(self) -> None:
        """Give the open file its name; a volume that is away keeps the part until the next start."""
        try:
            if self._file is not None:
                self._finish()
        except OSError:
            self._file = None

    def records_since(self, moment: float) -> Iterator[Record]:
        """This stem's records in files that were written to after the moment; none may be open. Raises OSError."""
        self._recover()
        for path in self._own(""):
            if path.stat().st_mtime >= moment:
                yield from read_lines(path)

    def _own(self, ending: str) -> list[Path]:
        """Files of this stem and no other: one pod's name may begin with another's."""
        dot = "." if ending else ""
        form = re.compile(rf"{re.escape(dot + self._stem)}-\d{{8}}T\d{{6}}Z-\d{{4,}}\.jsonl{re.escape(ending)}")
        return sorted(path for path in self._directory.glob(f"{dot}*.jsonl{ending}") if form.fullmatch(path.name))

    def _open(self) -> None:
        self._recover()
        self._directory.mkdir(exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        while True:
            self._count += 1
            name = f"{self._stem}-{stamp}-{self._count:04d}.jsonl"
            self._path = self._directory / f".{name}{_PART}"
            if not (self._directory / name).exists():
                break
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o640)
        self._bytes, self._opened_at = 0, self._now()

    def _finish(self) -> None:
        file, self._file = self._file, None
        assert file is not None
        # Until it has its name: the volume may be gone, and the part is found when it is back.
        self._recovered = False
        os.close(file)
        _publish(self._path)
        self._recovered = True

    def _give_up(self) -> None:
        """Take back what was half written, and let go of the file: the next append begins a new one."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            os.ftruncate(file, self._bytes)
            os.fsync(file)
            os.close(file)
            if self._bytes:
                _publish(self._path)
            else:
                self._path.unlink()
        except OSError:
            # Gone with its volume, or to be cut and named when the volume is back.
            self._recovered = False

    def _recover(self) -> None:
        """Cut and name parts that a former process of this stem left. Raises OSError."""
        if self._recovered:
            return
        if not self._directory.parent.is_dir():
            raise FileNotFoundError(f"{self._directory.parent} is not there")
        for part in self._own(_PART):
            if whole_bytes(part):
                cut(part)
                _publish(part)
            else:
                part.unlink()
        self._recovered = True


class Spool:
    """Records that wait on local disk, oldest first, in segments; what a killed process half wrote is not counted."""

    def __init__(self, directory: Path, *, max_bytes: int = 256 * MIB, segment_bytes: int = 4 * MIB) -> None:
        """Take up what a former process left. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._max_bytes, self._segment_bytes = directory, max_bytes, segment_bytes
        self._sizes: dict[Path, int] = {}
        for path in sorted(directory.glob("*.jsonl")):
            cut(path)
            if size := path.stat().st_size:
                self._sizes[path] = size
            else:
                path.unlink()
        self._next = 1 + max((int(path.stem.partition("-")[0]) for path in self._sizes), default=0)

    @property
    def size_bytes(self) -> int:
        """What waits."""
        return sum(self._sizes.values())

    def append(self, records: Sequence[Record]) -> None:
        """Keep them, safe when this returns. Raises SpoolFull."""
        lines = b"".join(_line(record) for record in records)
        if self.size_bytes + len(lines) > self._max_bytes:
            raise SpoolFull(f"the spool holds {self.size_bytes} bytes and takes {self._max_bytes}")
        newest = next(reversed(self._sizes), None)
        if newest is None or self._sizes[newest] >= self._segment_bytes:
            newest = self._directory / f"{self._next:012d}-{int(time.time())}.jsonl"
            self._next += 1
            self._sizes[newest] = 0
        size = self._sizes[newest]
        file = -1
        try:
            file = os.open(newest, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            _write_all(file, lines)
            os.fsync(file)
        except OSError as error:
            if file >= 0:
                os.ftruncate(file, size)
            if not size:
                del self._sizes[newest]
                newest.unlink(missing_ok=True)
            raise SpoolFull(f"{self._directory}: {error.strerror or error}") from error
        finally:
            if file >= 0:
                os.close(file)
        self._sizes[newest] = size + len(lines)

    def oldest(self) -> Path | None:
        """The oldest segment."""
        return next(iter(self._sizes), None)

    def records(self) -> Iterator[Record]:
        """What waits. Raises OSError."""
        for path in list(self._sizes):
            yield from read_lines(path)

    def discard(self, segment: Path) -> None:
        """Forget a segment that is elsewhere now."""
        segment.unlink(missing_ok=True)
        self._sizes.pop(segment, None)


class SpooledSink:
    """A sink behind a spool: while the sink is away records wait, in order; each gets there once."""

    def __init__(
        self,
        sink: FileSink,
        spool: Spool,
        *,
        retry_seconds: float = 5.0,
        batch: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink, self._spool = sink, spool
        self._retry_seconds, self._batch, self._clock = retry_seconds, batch, clock
        self._retry_at = 0.0
        self._checked: set[str] | None = None if spool.oldest() else set()
        """Ids that may be in the sink already although they are in the spool; None: not yet looked up."""
        self.spooling = False
        """The sink was away when last asked."""

    def append(self, records: Sequence[Record]) -> None:
        """Keep them in the sink, or in the spool while that is away or not yet empty. Raises SpoolFull."""
        if self._spool.size_bytes or self._clock() < self._retry_at:
            self._spool.append(records)
            self.drain()
            return
        try:
            self._sink.append(records)
        except SinkAway:
            self._away()
            self._spool.append(records)

    def drain(self) -> None:
        """Move what waits into the sink, as far as it goes."""
        if self._clock() < self._retry_at:
            return
        try:
            while (oldest := self._spool.oldest()) is not None:
                self._move(oldest)
        except (SinkAway, OSError):
            self._away()
        else:
            self.spooling = False

    def kept(self) -> Iterator[Record]:
        """What this stem has kept so far, as far as it can be read. Call before the first append."""
        try:
            yield from self._sink.records_since(0.0)
        except OSError:
            self._away()
        yield from self._spool.records()

    @property
    def waiting_bytes(self) -> int:
        """What is in the spool."""
        return self._spool.size_bytes

    def tick(self) -> None:
        """Call now and then: a quiet stream's file gets its name too, and a quiet spool is drained."""
        self.drain()
        try:
            self._sink.rotate()
        except OSError:
            self._away()

    def close(self) -> None:
        """Drain what can be drained, and finish the file."""
        self._retry_at = 0.0
        self.drain()
        self._sink.close()

    def _move(self, segment: Path) -> None:
        if self._checked is None:
            # A former process may have moved part of the oldest segment before it was killed: nothing older is there.
            there = self._sink.records_since(_begun(segment) - _CLOCKS_SECONDS)
            self._checked = {record_id(record) for record in there}
        waiting = [record for record in read_lines(segment) if record_id(record) not in self._checked]
        for start in range(0, len(waiting), self._batch):
            part = waiting[start : start + self._batch]
            self._sink.append(part)
            self._checked.update(record_id(record) for record in part)
        self._spool.discard(segment)
        if self._spool.oldest() is None:
            self._checked = set()

    def _away(self) -> None:
        self.spooling = True
        # What failed may have got there all the same.
        self._checked = None
        self._retry_at = self._clock() + self._retry_seconds


def record_id(record: Record) -> str:
    """The id that a record is known by."""
    return next((str(record[key]) for key in RECORD_ID_KEYS if key in record), "")


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a file; a last line that is not whole is none. Raises OSError."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def whole_bytes(path: Path) -> int:
    """Length up to the last whole line. Raises OSError."""
    with path.open("rb") as file:
        length = end = 0
        while block := file.read(MIB):
            if (found := block.rfind(b"\n")) >= 0:
                end = length + found + 1
            length += len(block)
    return end


def cut(path: Path) -> None:
    """Take away a last line that is not whole. Raises OSError."""
    whole = whole_bytes(path)
    if whole < path.stat().st_size:
        os.truncate(path, whole)


def _begun(segment: Path) -> float:
    """When a segment of the spool was begun: seconds since the epoch."""
    return float(segment.stem.partition("-")[2] or 0)


def writable(record: Record) -> Record:
    """The record, which JSON can say. Raises ValueError, TypeError: it must not be offered to a sink."""
    _line(record)
    return record


def _publish(part: Path) -> None:
    final = part.with_name(part.name.removeprefix(".").removesuffix(_PART))
    part.rename(final)
    directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _line(record: Record) -> bytes:
    # ASCII: lone surrogates, which JSON can carry and UTF-8 can't, stay what they are.
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]

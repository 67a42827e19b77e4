"""Deletes files whose records' time is over, by what the records say, a little at a time. sinks.py writes them."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

MIB = 1024 * 1024
EXPIRES_KEY = "rlhf.expires_at"
_LINE_BYTES = 16 * MIB
_REMEMBERED = 200_000
_ABANDONED_SECONDS = 24 * 3600.0
"""A part that nobody has written to for so long has lost its pod: a living one gives it its name within minutes."""
_log = logging.getLogger(__name__)


class Expiry:
    """Looks over the files of every pod, also of those that are gone: nobody else deletes theirs.

    A file goes when each of its records is over. One that holds anything else is kept: it is not ours to judge.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        pause_seconds: float = 3600.0,
        tick_bytes: int = 4 * MIB,
        tick_files: int = 256,
        now: Callable[[], float] = time.time,
    ) -> None:
        """name: that files begin with. pause_seconds: between two rounds. tick_*: most that one tick reads."""
        self._directory, self._pause_seconds, self._now = directory, pause_seconds, now
        self._tick_bytes, self._file_bytes = tick_bytes, tick_bytes // tick_files
        self._form = re.compile(rf"\.?{re.escape(name)}-.+-\d{{8}}T\d{{6}}Z-\d{{4,}}\.jsonl(\.part)?")
        self._round: Iterator[int] | None = None
        self._next_round = -math.inf
        self._keep_until: dict[str, float] = {}
        """By file name: before then nothing needs to be read to know that it stays."""
        self._deleted = 0

    def tick(self) -> int:
        """Go on with the round that is due; how many records went with their files. Never raises."""
        self._deleted = 0
        if self._round is None:
            if self._now() < self._next_round:
                return 0
            self._round = self._look_over()
        left = self._tick_bytes
        try:
            for size in self._round:
                left -= size
                if left <= 0:
                    return self._deleted
        except OSError as error:
            _log.warning("what is over can't be deleted: %s", error)
        self._round = None
        self._next_round = self._now() + self._pause_seconds
        return self._deleted

    def _look_over(self) -> Iterator[int]:
        """Yield the bytes of each piece of work; opening a file counts as some. Raises OSError."""
        if not self._directory.is_dir():
            return
        with os.scandir(self._directory) as entries:
            names = sorted(
                each.name for each in entries if self._form.fullmatch(each.name) and each.is_file(follow_symlinks=False)
            )
        there = set(names)
        self._keep_until = {name: until for name, until in self._keep_until.items() if name in there}
        for name in names:
            if self._now() < self._keep_until.get(name, -math.inf):
                continue
            try:
                yield from self._look_at(self._directory / name)
            except FileNotFoundError:
                # Another pod was faster, or a part has got its name.
                continue

    def _look_at(self, path: Path) -> Iterator[int]:
        part = path.name.endswith(".part")
        if part and self._now() - path.stat().st_mtime < _ABANDONED_SECONDS:
            return
        records = 0
        yield self._file_bytes
        with path.open("rb") as file:
            while line := file.readline(_LINE_BYTES):
                yield len(line)
                if part and not line.endswith(b"\n"):
                    # What a killed pod was writing: nobody was told that it is kept.
                    break
                until = _expires(line)
                if until > self._now():
                    self._keep(path.name, until)
                    return
                records += 1
        if not records and not part:
            self._keep(path.name, math.inf)
            return
        path.unlink()
        self._deleted += records

    def _keep(self, name: str, until: float) -> None:
        if len(self._keep_until) < _REMEMBERED:
            self._keep_until[name] = until


def _expires(line: bytes) -> float:
    """When a record is over, in seconds since the epoch; infinite for what is none of ours."""
    try:
        return datetime.fromisoformat(json.loads(line)[EXPIRES_KEY]).timestamp()
    except (ValueError, TypeError, KeyError):
        return math.inf

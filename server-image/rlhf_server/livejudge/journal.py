"""Which samples were counted, in a folder that outlives the process: sent again after a restart, they count once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from rlhf_operator.api.signals import LiveSample, Role

from .pairing import Key, fingerprint, key_of

FILE = "counted.jsonl"
_log = logging.getLogger(__name__)


class Journal:
    """Lines of request id, prompt digest, role, fingerprint, time. No text of anybody is in it."""

    def __init__(self, folder: Path | None, *, keep: int) -> None:
        """folder: None keeps nothing. keep: most lines; beyond twice as many the older half goes."""
        self._path = None if folder is None else folder / FILE
        self._keep = keep
        self._lines = 0
        self._broken = False

    def load(self, since: float) -> Iterator[tuple[Key, Role, str]]:
        """What was counted after that time, in seconds since the epoch; what is older is dropped from the file."""
        if self._path is None:
            return
        kept: list[str] = []
        found: list[tuple[Key, Role, str]] = []
        try:
            with self._path.open(encoding="utf-8") as file:
                for line in file:
                    if (entry := _read(line)) is not None and entry[3] > since:
                        kept.append(line)
                        found.append(entry[:3])
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("what was counted before can't be read", extra={"why": type(error).__name__})
            return
        self._rewrite(kept[-self._keep :])
        yield from found[-self._keep :]

    def note(self, sample: LiveSample, now: float) -> None:
        """Write that the sample is about to be counted. now: seconds since the epoch."""
        if self._path is None or self._broken:
            return
        line = json.dumps([*key_of(sample), sample.role.value, fingerprint(sample), round(now, 3)]) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
            self._lines += 1
            if self._lines > 2 * self._keep:
                with self._path.open(encoding="utf-8") as file:
                    self._rewrite(file.readlines()[-self._keep :])
        except OSError as error:
            # A full disk must not stop the judging: only a restart within the next minutes could count twice now.
            self._broken = True
            _log.warning("what is counted can't be written", extra={"why": str(error.strerror)})

    def _rewrite(self, lines: list[str]) -> None:
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        try:
            new.write_text("".join(lines), encoding="utf-8")
            os.replace(new, self._path)
            self._lines = len(lines)
        except OSError as error:
            self._broken = True
            _log.warning("what is counted can't be written", extra={"why": str(error.strerror)})


def _read(line: str) -> tuple[Key, Role, str, float] | None:
    try:
        request_id, digest, role, print_, at = json.loads(line)
        return (str(request_id), str(digest)), Role(role), str(print_), float(at)
    except (ValueError, TypeError):
        # The line that a killed process was writing.
        return None

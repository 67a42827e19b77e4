"""`python -m rlhf_server.live.worker`: the process that redacts and writes, so that no request waits for either.

It reads frames, one JSON object per line, and answers each by its number once what it holds is safe, or why it is not.
It ends when its input does: with the server, however that ended. recorder.py is the other side.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from rlhf_operator.api.policyrollout import Redaction
from rlhf_server.judge.logs import set_up

from .expiry import Expiry
from .feedbackstore import FeedbackStore
from .frames import Frame, Reply, WorkerSettings, exchange_of, read_frame
from .redaction import Pseudonyms, Redactor
from .sinks import FileSink, Record, SinkAway, Spool, SpooledSink, writable
from .tokens import KeyFile
from .trajectories import Identity, NotKept, Terms, trajectory_of

TRAJECTORIES, FEEDBACK = "trajectories", "feedback"
_SLOTS = 64
_BATCH = 64
_TICK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Worker:
    """Redacts and keeps what frames bring."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Raises OSError, ValueError: a spool that can't be written, or no key for pseudonyms."""
        self._settings = settings
        self._identity = Identity(
            settings.namespace,
            settings.rollout,
            settings.pod,
            settings.artifact_digest,
            settings.system_prompt_digest,
            settings.chat_template_digest,
        )
        self._pseudonyms = Pseudonyms(KeyFile(settings.pseudonym_keys).keys)
        self._redactors: dict[Redaction, Redactor] = {}
        self._slot, self._lock = _slot(settings.spool)
        self._trajectories = self._sink(TRAJECTORIES)
        self._feedback = FeedbackStore(self._sink(FEEDBACK))
        self._expiry = self._expiry_of(settings)

    def handle(self, frames: Sequence[Frame]) -> list[Reply]:
        """One reply per frame; one write for all of a kind."""
        replies = self._record([frame for frame in frames if frame.kind == "exchange"])
        replies += self._take([frame for frame in frames if frame.kind == "feedback"])
        return replies

    def tick(self) -> list[Reply]:
        """Call about once a second; what there is to tell."""
        for sink in (self._trajectories, self._feedback.sink):
            if sink is not None:
                sink.tick()
        expired = self._expiry.tick() if self._expiry is not None else 0
        return [Reply(number=0, expired=expired)] if expired else []

    def close(self) -> None:
        """Finish files."""
        for sink in (self._trajectories, self._feedback.sink):
            if sink is not None:
                sink.close()
                if sink.waiting_bytes:
                    _log.warning("%d bytes wait in the spool: lost, if the pod is deleted", sink.waiting_bytes)
        os.close(self._lock)

    def warm(self) -> None:
        """Make ready what the first frame will need. Raises OSError: no such model."""
        if self._settings.warm is not None:
            self.redactor(self._settings.warm).text("a@example.com 212-555-0123")

    def redactor(self, mode: Redaction) -> Redactor:
        """Made when first needed: the recognisers take some seconds. Raises OSError: no such model."""
        if mode not in self._redactors:
            finder = None
            if mode is not Redaction.OFF:
                # Here and not at the top: whoever redacts nothing needs none of it.
                from .recognizers import Finder

                finder = Finder(strict=mode is Redaction.STRICT, ner_model=self._settings.ner_model)
            self._redactors[mode] = Redactor(mode, finder)
        return self._redactors[mode]

    def _expiry_of(self, settings: WorkerSettings) -> Expiry | None:
        # One per pod is enough: each looks at the files of all pods.
        if settings.volume is None or self._slot:
            return None
        return Expiry(settings.volume / TRAJECTORIES, TRAJECTORIES, pause_seconds=settings.expiry_seconds)

    def _sink(self, name: str) -> SpooledSink | None:
        settings = self._settings
        if settings.volume is None:
            return None
        stem = f"{name}-{settings.pod}" + (f".{self._slot}" if self._slot else "")
        files = FileSink(
            settings.volume / name,
            stem,
            max_bytes=settings.file_bytes,
            max_seconds=settings.file_seconds,
        )
        spool = Spool(settings.spool / str(self._slot) / name, max_bytes=settings.spool_bytes)
        return SpooledSink(files, spool, retry_seconds=settings.retry_seconds)

    def _record(self, frames: Sequence[Frame]) -> list[Reply]:
        replies: list[Reply] = []
        kept: list[tuple[Frame, Record]] = []
        for frame in frames:
            try:
                if self._trajectories is None:
                    raise NotKept("no_sink")
                terms = Terms(frame.sample_rate, frame.retention_seconds)
                redactor = self.redactor(frame.redaction)
                exchange = exchange_of(frame.content)
                made = trajectory_of(exchange, self._identity, terms, redactor, self._pseudonyms)
                kept.append((frame, writable(made.dump())))
            except NotKept as reason:
                replies.append(Reply(number=frame.number, dropped=reason.reason))
            except OSError as error:
                # Of the redactor, which knows no text yet.
                _log.error("nothing can be redacted: %s", error)
                replies.append(Reply(number=frame.number, dropped="redaction"))
            except Exception as error:
                # Never the message, nor what led there: it may quote the text.
                _log.error("a record could not be made: %s", type(error).__name__)
                replies.append(Reply(number=frame.number, dropped="redaction"))
        if not kept:
            return replies
        assert self._trajectories is not None
        dropped = None
        try:
            self._trajectories.append([record for _, record in kept])
        except SinkAway as error:
            _log.warning("%d records are lost: %s", len(kept), error)
            dropped = "spool_full"
        return replies + [Reply(number=frame.number, dropped=dropped) for frame, _ in kept]

    def _take(self, frames: Sequence[Frame]) -> list[Reply]:
        made: list[Record] = []
        numbers: list[int] = []
        replies: list[Reply] = []
        for frame in frames:
            try:
                made.append(writable(self._redacted(frame)))
                numbers.append(frame.number)
            except Exception as error:
                _log.error("feedback could not be redacted: %s", type(error).__name__)
                replies.append(Reply(number=frame.number, dropped="redaction"))
        for number, end in zip(numbers, self._feedback.keep(made), strict=True):
            lost = self._feedback.sink is None and end.dropped is None
            replies.append(Reply(number=number, dropped=end.dropped, duplicate=end.duplicate, counted_only=lost))
        return replies

    def _redacted(self, frame: Frame) -> Record:
        redactor = self.redactor(frame.redaction)
        record = dict(frame.content)
        given = dict(record["feedback"])
        # Keyed, and of what was sent: from a digest alone nobody shall find out what was redacted.
        content = json.dumps(given, sort_keys=True)
        answer = [record["requestId"], record["revision"]]
        record["recordId"] = self._pseudonyms.digest(json.dumps([*answer, given.get("id") or content]))
        record["contentDigest"] = self._pseudonyms.digest(content)
        for name in ("edit", "chosen", "rejected", "comment"):
            if name in given:
                given[name] = redactor.text(given[name])
        if "user" in given:
            given["user"] = self._pseudonyms.of(given["user"])
        if isinstance(given.get("outcome"), dict):
            given["outcome"] = {**given["outcome"], "value": redactor.json(given["outcome"]["value"])}
        return {**record, "feedback": given, "redactionVersion": redactor.version}


def _slot(spool: Path) -> tuple[int, int]:
    """A part of the spool, and of the names of files, that no other process of this pod uses; and the lock on it.

    vLLM may run several API servers in one pod, each with a worker of its own. Raises OSError.
    """
    for slot in range(_SLOTS):
        (spool / str(slot)).mkdir(parents=True, exist_ok=True)
        lock = os.open(spool / str(slot) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return slot, lock
    raise OSError(f"{_SLOTS} processes use {spool} already")


def run(worker: Worker, source: BinaryIO, target: BinaryIO) -> None:
    """Serve until the input ends."""
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=4 * _BATCH)

    def reading() -> None:
        for line in source:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=reading, name="frames", daemon=True).start()
    ended, due = False, 0.0
    while not ended:
        batch, ended = _next(lines)
        replies: list[Reply] = []
        if batch:
            read = [read_frame(line) for line in batch]
            replies += worker.handle([each for each in read if isinstance(each, Frame)])
            replies += [each for each in read if isinstance(each, Reply)]
        # By the clock: where frames never cease, files must get their names and go all the same.
        if (now := time.monotonic()) >= due:
            due = now + _TICK_SECONDS
            replies += worker.tick()
        if replies:
            target.write(b"".join(reply.model_dump_json(exclude_defaults=True).encode() + b"\n" for reply in replies))
            target.flush()
    worker.close()


def _next(lines: queue.Queue[bytes | None]) -> tuple[list[bytes], bool]:
    """What has come, at least one line unless a second passes; and whether that was the end."""
    batch: list[bytes] = []
    try:
        line = lines.get(timeout=_TICK_SECONDS)
        while line is not None:
            batch.append(line)
            if len(batch) == _BATCH:
                return batch, False
            line = lines.get_nowait()
    except queue.Empty:
        return batch, False
    return batch, True


def main() -> int:
    """0 when the input has ended; 2 when it can't start."""
    set_up("INFO")
    settings = WorkerSettings.model_validate_json(sys.argv[1])
    try:
        worker = Worker(settings)
        worker.warm()
    except (OSError, ValueError) as error:
        _log.error("nothing can be recorded: %s", error)
        return 2
    try:
        run(worker, sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        worker.close()
    return 0


if __name__ == "__main__":
    # spaCy and Presidio import both where they find them: seconds and most of a gigabyte, for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    sys.modules["transformers"] = None  # type: ignore[assignment]
    sys.exit(main())

"""The reward journal: every score is written down before its update and reused when the step is done again.

So a judge behind HTTP is not asked twice, and a grader that gives another answer the second time changes no weight.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .fencing import Workspace
from .files import sync_directory, write_durably

FOLDER = "rewards"
_NAME = re.compile(r"step-([0-9]{8})\.jsonl")


class Key(NamedTuple):
    """What a score belongs to."""

    step: int
    """A row comes again in later steps, and may be judged otherwise there; 0: the reference model's samples."""
    scorer: str
    """Digest of the scorer."""
    row: int
    """The row's number in its source."""
    text: str
    """SHA-256 of prompt and response."""


def text_hash(prompt: str, response: str) -> str:
    """Hash a prompt and a response, so that no two different pairs are one."""
    head = prompt.encode()
    return hashlib.sha256(len(head).to_bytes(8, "big") + head + response.encode()).hexdigest()


class Journal:
    """The scores of the steps behind the newest checkpoint."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: dict[Key, float | None] = {}

    def read(self, after_step: int | None) -> dict[Key, float | None]:
        """Return every score that any attempt noted for later steps. Rank 0 reads, and shares by `know`.

        after_step: the checkpoint's; None where nothing was resumed, so that step 0, the reference, counts too.
        """
        found: dict[Key, float | None] = {}
        for path, step in self._files():
            if after_step is not None and step <= after_step:
                continue
            for line in path.read_text().splitlines():
                entry: dict[str, Any] = json.loads(line)
                found[Key(step, entry["scorer"], int(entry["row"]), entry["text"])] = entry["score"]
        return found

    def know(self, scores: Mapping[Key, float | None]) -> None:
        """Reuse these scores."""
        self._known = dict(scores)

    def look_up(self, key: Key) -> tuple[bool, float | None]:
        """Whether a score is known, and the score (None: it was missing then, too)."""
        return key in self._known, self._known.get(key)

    def write(self, step: int, scores: Sequence[tuple[Key, float | None]]) -> None:
        """Note a step's scores, durably, before its update. Rank 0 only."""
        folder = self._workspace.own / FOLDER
        folder.mkdir(exist_ok=True)
        lines = (
            json.dumps({"scorer": key.scorer, "row": key.row, "text": key.text, "score": score}) + "\n"
            for key, score in scores
        )
        write_durably(folder / f"step-{step:08d}.jsonl", "".join(lines).encode())

    def forget(self, up_to_step: int) -> None:
        """Remove what no resume can ask for again. Rank 0 only."""
        for path, step in self._files():
            if step <= up_to_step:
                path.unlink(missing_ok=True)
        folder = self._workspace.own / FOLDER
        if folder.is_dir():
            sync_directory(folder)

    def _files(self) -> list[tuple[Path, int]]:
        found: list[tuple[Path, int]] = []
        for attempt in self._workspace.attempt_folders():
            if int(attempt.name) > self._workspace.attempt:
                continue
            names = ((path, _NAME.fullmatch(path.name)) for path in sorted((attempt / FOLDER).glob("step-*.jsonl")))
            found.extend((path, int(match[1])) for path, match in names if match)
        return found

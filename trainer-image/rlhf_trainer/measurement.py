"""What a policy said to evaluation prompts and how it was scored, in the workspace. Making it is in evaluate.py.

<workspace>/evaluation/<subject>.jsonl           a header line, then one line per row
<workspace>/evaluation/suite-<name>/<subject>.jsonl   the same for a suite
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.result import Digest

from .data import EVALUATION
from .errors import ConfigError
from .files import write_durably

POLICY, BASE, WARM_START, PARENT = "Policy", "Base", "WarmStart", "Parent"

Score = Annotated[float, Field(allow_inf_nan=False)] | None

_SUBJECT = re.compile(r"[A-Z][A-Za-z]{0,31}(@[0-9]{1,9})?")


class Header(Model):
    """First line of a measurement: what was measured, with what."""

    subject: str
    version: str
    """What tells one policy from another (its digest); empty for a baseline, which is measured once."""
    plan_digest: Digest
    dataset_digest: Digest
    scorers: dict[str, Digest]
    rows: int


class RowScore(Model):
    """One text and what each scorer says of it."""

    row: int
    """Number of the row in the evaluation data."""
    prompt: str
    """SHA-256 of the prompt, in hex."""
    text: str
    scores: dict[str, Score]
    judged: dict[str, dict[str, Score]] = Field(default_factory=dict)
    """By baseline and scorer, from judges that hold both texts against each other, in both orders: 1 this text is
    better, 0.5 neither, 0 the baseline's. Only of the trained policy."""
    slices: dict[str, str] = Field(default_factory=dict)
    """The row's value in each column that the plan slices by."""
    kl: Score = None
    """k1 to the reference model summed over the text's tokens, in nats; None without one to measure it by."""


class Measurement(Model):
    """Texts of one policy for every evaluation prompt, scored."""

    header: Header
    rows: tuple[RowScore, ...]

    def scores(self, scorer: str) -> list[float | None]:
        """One scorer's scores, by row."""
        return [row.scores.get(scorer) for row in self.rows]

    def judged(self, baseline: str, scorer: str) -> list[float | None] | None:
        """A comparing judge's verdicts by row; None where this scorer judges one text at a time."""
        found = [row.judged.get(baseline, {}) for row in self.rows]
        return [each.get(scorer) for each in found] if any(scorer in each for each in found) else None

    def mean(self, scorer: str) -> float | None:
        """Mean of the scores that there are."""
        return mean(self.scores(scorer))


def mean(values: list[float | None]) -> float | None:
    """Mean of what is there; None of nothing."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def path_of(workspace: Path, subject: str, part: str = "") -> Path:
    """Where a measurement lies. part: the folder of a suite; empty for the evaluation set."""
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(f"{subject!r} names no policy")
    return workspace / EVALUATION / part / f"{subject}.jsonl"


def exists(workspace: Path, subject: str, version: str = "", part: str = "") -> bool:
    """Whether this subject (of this version) was measured, by this attempt or by a former one."""
    path = path_of(workspace, subject, part)
    if not path.is_file() or (subject.startswith(POLICY) and not version):
        return False
    with path.open("rb") as file:
        return _header(file.readline(), path).version == version


def read(workspace: Path, subject: str, part: str = "") -> Measurement:
    """What was measured. Raises ConfigError when it is not there or can't be read."""
    path = path_of(workspace, subject, part)
    try:
        first, *lines = path.read_bytes().splitlines()
        header = _header(first, path)
        rows = tuple(RowScore.model_validate_json(line) for line in lines)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the evaluation of {subject} in {path} can't be read: {error}") from error
    if len(rows) != header.rows:
        raise ConfigError(f"the evaluation of {subject} in {path} has {len(rows)} rows, its header says {header.rows}")
    return Measurement(header=header, rows=rows)


def found(workspace: Path, subject: str, part: str = "") -> Measurement | None:
    """What was measured, or None when nothing was."""
    return read(workspace, subject, part) if path_of(workspace, subject, part).is_file() else None


def store(measurement: Measurement, workspace: Path, part: str, before_rename: Callable[[], None]) -> None:
    """Write a measurement, whole or not at all."""
    path = path_of(workspace, measurement.header.subject, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [measurement.header.model_dump_json(by_alias=True)]
    lines += [row.model_dump_json(by_alias=True) for row in measurement.rows]
    write_durably(path, ("\n".join(lines) + "\n").encode(), before_rename)


def _header(line: bytes, path: Path) -> Header:
    try:
        return Header.model_validate_json(line)
    except ValidationError as error:
        raise ConfigError(f"{path} does not begin with a header: {error.errors()[0]['msg']}") from error

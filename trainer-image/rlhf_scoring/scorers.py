"""All scorers of a plan behind one object: asked by name, timed, closed. They are built by build.py."""

import math
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from .errors import GraderFailed
from .graders.python import Python
from .graders.unit_tests import UnitTests
from .judge import Judge, Missing, Row, row_number

_TIMES_KEPT = 1024
_REASON = 200


@dataclass(frozen=True, slots=True)
class Timing:
    """What one scorer has done so far."""

    texts: int
    p95_seconds: float
    """95th percentile of the time per text, over the last 1,024 texts."""
    missing: int
    timeouts: int
    failed: int
    """Texts that the grader raised on, or took too long for."""
    last_missing: str
    """Why the last text without a score has none; empty while every text has one."""
    last_failed: str
    """Row and reason of the last failure."""


@dataclass(slots=True)
class _Tally:
    texts: int = 0
    missing: int = 0
    timeouts: int = 0
    failed: int = 0
    last_missing: str = ""
    last_failed: str = ""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES_KEPT))


class Scorers:
    """The scorers of one plan, by name. A context manager: leaving it ends every helper process."""

    def __init__(self, judges: dict[str, Judge], resources: ExitStack, strict: Collection[str] = ()) -> None:
        """strict: scorers whose failure on a row ends the run."""
        self._judges = judges
        self.strict = frozenset(strict)
        self._resources = resources
        self._tallies = {name: _Tally() for name in judges}

    @property
    def names(self) -> list[str]:
        """The scorers' names, in the plan's order."""
        return list(self._judges)

    def score(
        self, name: str, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]
    ) -> list[float | None]:
        """Return one finite score per response, in order; None where there is none (never 0 in its stead).

        rows: each prompt's row of the data set. Raises GraderFailed, naming the row, when a strict grader fails on one.
        """
        judge, tally = self._judges[name], self._tallies[name]
        started = time.monotonic()
        judgements = judge.judge(prompts, responses, rows)
        elapsed = time.monotonic() - started
        if isinstance(judge, Python | UnitTests):
            tally.seconds.extend(judge.call_seconds)
        elif responses:
            tally.seconds.extend([elapsed / len(responses)] * min(len(responses), _TIMES_KEPT))
        tally.texts += len(responses)
        scores: list[float | None] = []
        for judgement, row in zip(judgements, rows, strict=True):
            if not isinstance(judgement, Missing) and not math.isfinite(judgement):
                judgement = Missing(f"row {row_number(row)}: the score is {judgement}", failed=True)
            if not isinstance(judgement, Missing):
                scores.append(judgement)
                continue
            if judgement.failed and name in self.strict:
                raise GraderFailed(name, judgement.reason)
            tally.missing += 1
            tally.timeouts += judgement.timed_out
            tally.failed += judgement.failed
            tally.last_missing = judgement.reason
            if judgement.failed:
                tally.last_failed = judgement.reason
            scores.append(None)
        return scores

    def judge(self, name: str) -> Judge:
        """The judge itself, for who asks it for more than scores."""
        return self._judges[name]

    def digest(self, name: str) -> str:
        """`sha256:…` over everything that decides this scorer's scores."""
        return self._judges[name].digest

    def digests(self) -> dict[str, str]:
        """Every scorer's digest, by name."""
        return {name: judge.digest for name, judge in self._judges.items()}

    def timing(self, name: str) -> Timing:
        """Times and missing scores so far."""
        tally = self._tallies[name]
        ordered = sorted(tally.seconds)
        p95 = ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0
        return Timing(
            tally.texts, p95, tally.missing, tally.timeouts, tally.failed, tally.last_missing, tally.last_failed
        )

    def failures(self) -> dict[str, str]:
        """In words, by name: on how many texts a scorer failed so far, and the last one's row and reason."""
        return {
            name: f"{tally.failed} of {tally.texts} texts; the last: {tally.last_failed[:_REASON]}"
            for name, tally in self._tallies.items()
            if tally.failed
        }

    def close(self) -> None:
        """End helper processes and free models; may be called twice."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

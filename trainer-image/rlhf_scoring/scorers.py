"""All scorers of a plan behind one object: built once, asked by name, timed, closed. The judging is in the judges."""

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rlhf_operator.api.plan import PlanScorer
from rlhf_operator.api.shared import Grader

from .errors import GraderFailed, ScorerConfigError
from .graders.final_answer import FinalAnswer
from .graders.python import Python
from .graders.text import JSONSchema, Length, Regex
from .judge import Judge, Missing, Row, row_number
from .sandbox.pool import ForkServer

_TIMES_KEPT = 1024
_UNSUPPORTED = {"unit_tests": "unitTests", "http": "http", "llm_judge": "llmJudge"}


@dataclass(frozen=True, slots=True)
class Timing:
    """What one scorer has done so far."""

    texts: int
    p95_seconds: float
    """95th percentile of the time per text, over the last 1,024 texts."""
    missing: int
    timeouts: int
    last_missing: str
    """Why the last text without a score has none; empty while every text has one."""


@dataclass(slots=True)
class _Tally:
    texts: int = 0
    missing: int = 0
    timeouts: int = 0
    last_missing: str = ""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMES_KEPT))


class Scorers:
    """The scorers of one plan, by name. A context manager: leaving it ends every helper process."""

    def __init__(self, judges: dict[str, Judge], resources: ExitStack) -> None:
        self._judges = judges
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

        rows: each prompt's row of the data set. Raises GraderFailed, naming the row, when a grader raises.
        """
        judge, tally = self._judges[name], self._tallies[name]
        started = time.monotonic()
        judgements = judge.judge(prompts, responses, rows)
        elapsed = time.monotonic() - started
        if isinstance(judge, Python):
            tally.seconds.extend(judge.call_seconds)
        elif responses:
            tally.seconds.extend([elapsed / len(responses)] * min(len(responses), _TIMES_KEPT))
        tally.texts += len(responses)
        scores: list[float | None] = []
        for judgement, row in zip(judgements, rows, strict=True):
            if isinstance(judgement, Missing):
                tally.missing += 1
                tally.timeouts += judgement.timed_out
                tally.last_missing = judgement.reason
                scores.append(None)
            elif math.isfinite(judgement):
                scores.append(judgement)
            else:
                raise GraderFailed(name, row_number(row), f"the score is {judgement}")
        return scores

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
        return Timing(tally.texts, p95, tally.missing, tally.timeouts, tally.last_missing)

    def close(self) -> None:
        """End helper processes and free models; may be called twice."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def build_scorers(scorers: Sequence[PlanScorer], *, device: str | None = None, python_workers: int = 2) -> Scorers:
    """Build every scorer of a plan. Raises ScorerConfigError naming the first that can't be.

    device: where reward models run; None: the process's GPU at the time of the first score, else the CPU.
    python_workers: processes per Python grader, at most.
    """
    judges: dict[str, Judge] = {}
    with ExitStack() as stack:
        server: ForkServer | None = None
        if any(scorer.grader is not None and scorer.grader.python is not None for scorer in scorers):
            server = stack.enter_context(ForkServer())
        for scorer in scorers:
            if scorer.name in judges:
                raise ScorerConfigError(scorer.name, "the name is used twice")
            if scorer.grader is not None:
                judge = _grader(scorer, scorer.grader, server, python_workers)
            else:
                judge = _reward_model(scorer, device)
            stack.callback(judge.close)
            judges[scorer.name] = judge
        return Scorers(judges, stack.pop_all())


def _grader(scorer: PlanScorer, grader: Grader, server: ForkServer | None, workers: int) -> Judge:
    if grader.final_answer is not None:
        return FinalAnswer(grader.final_answer)
    if grader.regex is not None:
        return Regex(scorer.name, grader.regex)
    if grader.json_schema is not None:
        return JSONSchema(scorer.name, grader.json_schema)
    if grader.length is not None:
        return Length(grader.length)
    if grader.overlap is not None:
        # Here and not at the top: its libraries take seconds to import.
        from .graders.overlap import Overlap

        return Overlap(grader.overlap)
    if grader.python is not None and server is not None:
        return Python(scorer, grader.python, server, workers)
    kind = next(name for field, name in _UNSUPPORTED.items() if getattr(grader, field) is not None)
    raise ScorerConfigError(scorer.name, f"grader.{kind} is not supported yet: use another grader")


def _reward_model(scorer: PlanScorer, device: str | None) -> Judge:
    model = scorer.reward_model
    if model is None or model.path is None:
        raise ScorerConfigError(scorer.name, "rewardModel.url is not supported yet: give the model's files by path")
    # Here and not at the top: graders alone need no torch.
    from .reward_model import RewardModel

    return RewardModel(scorer.name, model, device)

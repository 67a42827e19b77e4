"""The engine that is code: graders in a worker thread of this process, Python graders in their sandbox."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlhf_operator.api.plan import PlanScorer
from rlhf_operator.api.scorerfile import ScorerFile
from rlhf_scoring.build import build_scorers
from rlhf_scoring.errors import GraderFailed, SandboxError, ScorerConfigError
from rlhf_scoring.judge import ROW_NUMBER, Row
from rlhf_scoring.version import weighted_mean

from .engine import EngineAway, NoScore, Scored
from .errors import ConfigError
from .schema import ScoreItem

_log = logging.getLogger(__name__)


def in_directory(scorer: PlanScorer, directory: Path) -> PlanScorer:
    """The scorer with its code file where the version has it: paths in scorer.json count from the version's root."""
    if scorer.grader_path is None:
        return scorer
    root = directory.resolve()
    path = (root / scorer.grader_path.lstrip("/")).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(f"grader {scorer.name}: its file {scorer.grader_path} is not in the version")
    return scorer.model_copy(update={"grader_path": str(path)})


class Graders:
    """A version's graders; a dimension's score is the weighted mean of its graders."""

    def __init__(self, directory: Path, scorer: ScorerFile) -> None:
        """Build every grader. Raises ConfigError naming the first that can't be.

        directory: where the files of Python graders are, named relative to it.
        """
        self._dimensions = scorer.dimensions
        self._parts = [(entry.dimension, entry.weight, entry.scorer.name) for entry in scorer.graders]
        try:
            self._scorers = build_scorers([in_directory(entry.scorer, directory) for entry in scorer.graders])
        except ScorerConfigError as error:
            raise ConfigError(str(error)) from error
        # One thread: the sandbox has its own processes, and the other graders hold Python's lock anyway.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grading")

    async def check(self) -> None:
        """Graders live in this process."""

    async def score(self, items: Sequence[ScoreItem]) -> list[Scored]:
        """Scores by dimension; an item that a grader has no score for, or fails on, has none."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._score, list(items))

    async def close(self) -> None:
        """End the graders' processes."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._scorers.close)
        self._thread.shutdown(wait=False)

    def _score(self, items: Sequence[ScoreItem]) -> list[Scored]:
        columns = [self._grade(name, items) for _, _, name in self._parts]
        return [self._combine(at, [column[at] for column in columns]) for at in range(len(items))]

    def _combine(self, at: int, grades: Sequence[float | str]) -> Scored:
        dimensions: dict[str, float] = {}
        for dimension in self._dimensions:
            mine = [
                (weight, grade)
                for (owner, weight, _), grade in zip(self._parts, grades, strict=True)
                if owner == dimension
            ]
            for _, grade in mine:
                if isinstance(grade, str):
                    return NoScore(grade)
            mean = weighted_mean((weight, grade) for weight, grade in mine if not isinstance(grade, str))
            if mean is None:
                return NoScore(f"dimension {dimension} has no grader")
            dimensions[dimension] = mean
        return dimensions

    def _grade(self, name: str, items: Sequence[ScoreItem]) -> list[float | str]:
        """One grader's scores; why there is none in a score's place."""
        prompts, responses = [item.prompt for item in items], [item.response for item in items]
        rows: list[Row] = [{**item.row, ROW_NUMBER: number} for number, item in enumerate(items, start=1)]
        try:
            scores = self._scorers.score(name, prompts, responses, rows)
        except GraderFailed:
            # The message may quote the text; and one client's text must not cost the others their scores.
            if len(items) == 1:
                _log.warning("a grader failed on a text", extra={"grader": name})
                return [f"grader {name} failed on this text"]
            return [self._grade(name, [item])[0] for item in items]
        except SandboxError as error:
            raise EngineAway(f"grader {name}'s sandbox is gone", reason="SandboxGone") from error
        reason = f"grader {name} has no score for this text: it failed on it, or the row lacks what it compares with"
        return [reason if score is None else score for score in scores]

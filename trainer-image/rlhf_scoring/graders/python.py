"""Python graders: users' functions, called in fenced-off workers under a time limit."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rlhf_operator.api.plan import PlanScorer
from rlhf_operator.api.shared import PythonGrader
from rlhf_scoring.errors import ScorerConfigError
from rlhf_scoring.judge import Judgement, Missing, Row, digest_of, row_number
from rlhf_scoring.sandbox.pool import Died, ForkServer, LoadFailed, Outcome, Pool, Raised, Scored, TimedOut

SOURCE_BYTES = 1024 * 1024


class Python:
    """Calls `function(prompt, response, row)`; it returns a number, or None where it has no score.

    A call that runs too long, that ends its worker or that raises leaves the row without a score.
    """

    def __init__(self, scorer: PlanScorer, config: PythonGrader, server: ForkServer, workers: int) -> None:
        source = _source(scorer, config)
        if source is None:
            module, function = str(config.entry_point).split(":")
            load = {"module": module, "function": function, "file": module}
        else:
            load = {"source": source, "function": config.function, "file": Path(str(scorer.grader_path)).name}
        try:
            self._pool = Pool(server, load, workers=workers, timeout_seconds=config.timeout.seconds)
        except LoadFailed as error:
            raise ScorerConfigError(scorer.name, f"the grader {load['file']} can't be loaded: {error}") from error
        # The time-out is left out: it decides whether there is a score, not which.
        self.digest = digest_of("python/1", load["file"], load["function"], self._pool.code_digest)
        self.call_seconds: list[float] = []

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Call the function for every row."""
        calls = [
            {"prompt": prompt, "response": response, "row": dict(row)}
            for prompt, response, row in zip(prompts, responses, rows, strict=True)
        ]
        results = self._pool.run(calls)
        self.call_seconds = [seconds for _, seconds in results]
        return [_judgement(outcome, row) for (outcome, _), row in zip(results, rows, strict=True)]

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


def _judgement(outcome: Outcome, row: Row) -> Judgement:
    match outcome:
        case Scored(score):
            return Missing("the grader returned None") if score is None else score
        case Raised(reason):
            return Missing(f"row {row_number(row)}: {reason}", failed=True)
        case TimedOut(seconds):
            return Missing(f"row {row_number(row)}: no answer within {seconds:g} s", timed_out=True, failed=True)
        case Died(how):
            return Missing(f"row {row_number(row)}: the grader's process ended: {how}", failed=True)


def _source(scorer: PlanScorer, config: PythonGrader) -> str | None:
    """The text of a grader that came as a file; the digest is taken of the very bytes that will run."""
    if config.config_map is None:
        return None
    if scorer.grader_path is None:
        raise ScorerConfigError(scorer.name, "python.configMap is set but the plan names no file (graderPath)")
    path = Path(scorer.grader_path)
    try:
        with path.open("rb") as file:
            data = file.read(SOURCE_BYTES + 1)
    except OSError as error:
        raise ScorerConfigError(scorer.name, f"the grader's file {path} can't be read: {error.strerror}") from error
    if len(data) > SOURCE_BYTES:
        raise ScorerConfigError(scorer.name, f"the grader's file {path} is larger than {SOURCE_BYTES} bytes")
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if scorer.grader_digest is not None and digest != scorer.grader_digest:
        raise ScorerConfigError(
            scorer.name,
            f"the grader's file {path} has digest {digest}, the plan was made with {scorer.grader_digest}: "
            "the ConfigMap has changed since; make a new job for the new grader",
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ScorerConfigError(scorer.name, f"the grader's file {path} is not UTF-8 text") from error

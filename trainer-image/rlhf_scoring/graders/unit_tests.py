"""Unit tests: the code in a response against its row's hidden tests, each in a process of its own."""

from collections.abc import Sequence

from rlhf_operator.api.shared import UnitTestsGrader
from rlhf_scoring.errors import ScorerConfigError
from rlhf_scoring.judge import Judgement, Missing, Row, digest_of, row_number, text_column
from rlhf_scoring.sandbox.pool import Died, ForkServer, LoadFailed, Outcome, Pool, Raised, Scored, TimedOut

_FENCE = "```"
_PYTHON = frozenset({"python", "py", "python3"})
_LATE = 0.0


class UnitTests:
    """1 when the code passes every test, -1 when it fails one or can't be run, 0 when it takes too long."""

    def __init__(self, scorer: str, config: UnitTestsGrader, server: ForkServer, workers: int) -> None:
        self._column = config.tests_column
        try:
            self._pool = Pool(
                server, {}, workers=workers, timeout_seconds=config.timeout.seconds, role="tests", once=True
            )
        except LoadFailed as error:
            raise ScorerConfigError(scorer, f"the sandbox for unit tests does not start: {error}") from error
        self.digest = digest_of("unit-tests/1", config.dump())
        self.call_seconds: list[float] = []

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Run every row's tests; a row without tests has no score."""
        found: list[Judgement] = []
        calls, places = [], []
        for at, (response, row) in enumerate(zip(responses, rows, strict=True)):
            tests = text_column(row, self._column)
            if isinstance(tests, Missing):
                found.append(tests)
                continue
            found.append(_LATE)
            calls.append({"code": code_of(response), "tests": tests})
            places.append(at)
        results = self._pool.run(calls)
        self.call_seconds = [seconds for _, seconds in results]
        for at, (outcome, _) in zip(places, results, strict=True):
            found[at] = _judgement(outcome, rows[at])
        return found

    def close(self) -> None:
        """End the processes."""
        self._pool.close()


def code_of(response: str) -> str:
    """The response's code: its last fenced block of Python, else its last fenced block, else all of it.

    A block that is not closed, as in a response that was cut, goes to the end.
    """
    blocks: list[tuple[bool, list[str]]] = []
    inside = False
    for line in response.splitlines():
        mark = line.strip()
        if inside and mark == _FENCE:
            inside = False
        elif not inside and mark.startswith(_FENCE) and _FENCE not in mark[len(_FENCE) :]:
            inside = True
            blocks.append((mark[len(_FENCE) :].strip().lower() in _PYTHON, []))
        elif inside:
            blocks[-1][1].append(line)
    if not blocks:
        return response
    python = [lines for is_python, lines in blocks if is_python]
    return "\n".join(python[-1] if python else blocks[-1][1]) + "\n"


def _judgement(outcome: Outcome, row: Row) -> Judgement:
    match outcome:
        case Scored(score):
            return Missing(f"row {row_number(row)}: the tests gave no score") if score is None else score
        case TimedOut():
            return _LATE
        case Raised(reason):
            return Missing(f"row {row_number(row)}: {reason}", failed=True)
        case Died(how):
            return Missing(f"row {row_number(row)}: the tests' process ended: {how}", failed=True)

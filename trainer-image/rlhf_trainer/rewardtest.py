"""`rlhf_trainer test-rewards`: what a plan's scorers make of texts that no reward should like, before any training."""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_operator.api.exitcodes import ExitCode
from rlhf_operator.api.plan import PlanScorer, TrainingPlan
from rlhf_scoring.errors import ScoringError
from rlhf_scoring.judge import ROW_NUMBER, Judge, Judgement, Missing

from .data.cells import Unusable, check_encodable, text_of
from .data.sources import Source
from .edgecases import BUILT_IN, Anchor, Case, cases
from .errors import ConfigError
from .outcome import classify
from .plans import read_plan
from .progress import round_figure, say

MAX_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What one scorer makes of one text, beside the good answer to the same prompt."""

    scorer: str
    anchor: str
    case: str
    good: float | None
    score: float | None
    problem: str = ""
    """Why it fails; empty when it passes."""


def main(arguments: argparse.Namespace) -> int:
    """Print every finding; 0 when every scorer passes, else 78 (Config): the plan's rewards are to be mended."""
    try:
        plan = read_plan(arguments.plan)
        scorers = plan.scorers if isinstance(plan, TrainingPlan) else [each.scorer for each in plan.graders]
        anchors = BUILT_IN if arguments.table is None else read_table(arguments.table)
        findings = test_rewards(_chosen(scorers, arguments.skip or ()), anchors)
    except Exception as error:
        known = classify(error)
        say("end", failure=known.failure, reason=known.reason, message=known.message)
        return known.exit_code
    _show(findings)
    return ExitCode.CONFIG if any(each.problem for each in findings) else ExitCode.OK


def read_table(path: Path) -> list[Anchor]:
    """Rows with `prompt`, `chosen`, a good answer, and what graders compare with; `rejected` is one case more.

    Raises ConfigError naming the row: none may be left out.
    """
    found: list[Anchor] = []
    for row in Source(str(path), str(path)).rows():
        if len(found) == MAX_ROWS:
            raise ConfigError(f"--table: {path} has more than {MAX_ROWS} rows", "TableInvalid")
        try:
            if row.value is None:
                raise ConfigError(f"--table: row {row.number} of {path}: {row.detail}; mend it", "TableInvalid")
            prompt, chosen = text_of(row.value, "prompt"), text_of(row.value, "chosen")
            rejected = text_of(row.value, "rejected") if row.value.get("rejected") is not None else None
            for text in filter(None, (prompt, chosen, rejected)):
                check_encodable(text)
        except Unusable as problem:
            raise ConfigError(
                f"--table: row {row.number} of {path}: {problem.detail}; every row needs prompt and chosen as text",
                "TableInvalid",
            ) from problem
        columns = {**row.value, ROW_NUMBER: row.number}
        found.append(Anchor(f"row {row.number}", prompt, chosen, columns, rejected))
    if not found:
        raise ConfigError(f"--table: {path} has no rows", "TableInvalid")
    return found


def test_rewards(plans: Sequence[PlanScorer], anchors: Sequence[Anchor]) -> list[Finding]:
    """Judge every case of every anchor by every scorer. Raises ScorerConfigError."""
    from rlhf_scoring.build import build_scorers

    with build_scorers(plans) as scorers:
        return [finding for plan in plans for finding in _of_scorer(plan, scorers.judge(plan.name), anchors)]


def _chosen(scorers: Sequence[PlanScorer], skipped: Sequence[str]) -> list[PlanScorer]:
    names = [each.name for each in scorers]
    unknown = [name for name in skipped if name not in names]
    if unknown:
        raise ConfigError(f"--skip {unknown[0]}: the plan's scorers are {', '.join(names) or 'none'}", "UnknownScorer")
    found = [each for each in scorers if each.name not in skipped]
    if not found:
        raise ConfigError("the plan has no scorer to test: rewards are judged by its scorers", "NoScorers")
    return found


def _of_scorer(plan: PlanScorer, judge: Judge, anchors: Iterable[Anchor]) -> list[Finding]:
    found: list[Finding] = []
    why = ""
    for anchor in anchors:
        tried = cases(anchor)
        good, *others = _judge(judge, anchor, [anchor.good, *(case.response for case in tried)], plan)
        if isinstance(good, Missing):
            # A row that lacks what it compares with says nothing of a grader.
            why = why or f"{anchor.name}: {good.reason}"
            continue
        found += [
            Finding(plan.name, anchor.name, case.name, good, _number(score), _problem(case, good, score))
            for case, score in zip(tried, others, strict=True)
        ]
    if not found:
        words = f"no good answer has a score ({why}): give --table with rows that have the columns it reads"
        found.append(Finding(plan.name, "", "not tested", None, None, words))
    return found


def _judge(judge: Judge, anchor: Anchor, texts: list[str], plan: PlanScorer) -> list[Judgement]:
    row = anchor.columns(plan.grader)
    try:
        return [_finite(each) for each in judge.judge([anchor.prompt] * len(texts), texts, [row] * len(texts))]
    except ScoringError:
        raise
    except Exception as error:
        # Not even a reward model may break on a text: which one it is is asked of each by itself.
        if len(texts) == 1:
            return [Missing(f"{type(error).__name__}: {error}", failed=True)]
        return [judgement for text in texts for judgement in _judge(judge, anchor, [text], plan)]


def _finite(judgement: Judgement) -> Judgement:
    if isinstance(judgement, Missing) or math.isfinite(judgement):
        return judgement
    return Missing(f"the score is {judgement}", failed=True)


def _number(judgement: Judgement) -> float | None:
    return None if isinstance(judgement, Missing) else judgement


def _problem(case: Case, good: float, score: Judgement) -> str:
    if isinstance(score, Missing):
        # No score is no reward; a failure would cost rows, or the run.
        return f"it fails on this text: {score.reason}" if score.failed else ""
    if score > good:
        return "it scores more than the good answer"
    return "it scores as much as the good answer" if score == good and not case.may_equal else ""


def _show(findings: Sequence[Finding]) -> None:
    failed = sorted({each.scorer for each in findings if each.problem})
    passed = sorted({each.scorer for each in findings} - set(failed))
    if sys.stdout.isatty():
        _table(findings)
    else:
        for each in findings:
            say(
                "reward-test",
                scorer=each.scorer,
                anchor=each.anchor,
                case=each.case,
                good=None if each.good is None else round_figure(each.good),
                score=None if each.score is None else round_figure(each.score),
                passed=not each.problem,
                problem=each.problem,
            )
    advice = (
        "mend the reward, give --table with answers that it should like, or --skip a scorer that is meant to look at "
        "form alone"
    )
    say("reward-tests", passed=passed, failed=failed, **({"advice": advice} if failed else {}))


def _table(findings: Sequence[Finding]) -> None:
    # Here and not at the top: a pod's log is no terminal.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("scorer", "prompt", "text", "good", "score", "")
    for each in findings:
        figures = ["–" if value is None else f"{value:.4g}" for value in (each.good, each.score)]
        verdict = Text(each.problem, "red") if each.problem else Text("passed", "green")
        table.add_row(Text(each.scorer), Text(each.anchor), Text(each.case), *figures, verdict)
    Console().print(table)

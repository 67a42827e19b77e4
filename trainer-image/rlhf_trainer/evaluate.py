"""Evaluation: texts by fixed seeds, scores row by row in the workspace, figures from them. The gate is in gate.py.

<workspace>/evaluation/…                 measurements (measurement.py)
<workspace>/evaluation/samples.json      some rows before and after, for people
<workspace>/scorers.json                 what judged: scorer names and digests
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_operator.api.plan import PlanSuite, TrainingPlan
from rlhf_operator.api.result import Comparison, SliceScore, SuiteScore
from rlhf_scoring.judge import Comparer, Missing

from .comparison import Side, estimate
from .data import EVALUATION, Prepared, PreparedRow, load_all, suite_folder
from .diversity import distinct_words
from .errors import ConfigError
from .files import write_durably
from .measurement import (
    BASE,
    PARENT,
    POLICY,
    WARM_START,
    Header,
    Measurement,
    RowScore,
    Score,
    exists,
    found,
    mean,
    read,
    store,
)
from .progress import round_figure
from .slices import slice_scores, values_of

if TYPE_CHECKING:
    from rlhf_scoring.scorers import Scorers

__all__ = ["BASE", "PARENT", "POLICY", "WARM_START", "Measurement", "RowScore", "exists", "read"]

SCORERS_FILE = "scorers.json"
SAMPLES_FILE = "samples.json"
SUBJECTS = (BASE, WARM_START, PARENT, POLICY)


class Answer(NamedTuple):
    """What a policy says to one row."""

    text: str
    kl: float | None = None
    """k1 to the reference model, summed over its tokens, in nats."""


Generate = Callable[[Sequence[PreparedRow], Sequence[int]], list[Answer]]
"""(rows, one seed for each) -> one answer for each, in order."""


def row_seed(seed: int, row: int) -> int:
    """The seed of one evaluation row: the same for every policy, step, world size and order. 0 … 2^63 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}/evaluation/{row}".encode()).digest()[:8], "big") >> 1


def measure(
    subject: str,
    rows: Prepared,
    generate: Generate,
    scorers: "Scorers | None",
    *,
    plan: TrainingPlan,
    workspace: Path,
    write: bool = True,
    version: str = "",
    have: bool | None = None,
    suite: PlanSuite | None = None,
    before_rename: Callable[[], None] = lambda: None,
) -> Measurement | None:
    """Generate, score and store; or read what is stored already, without generating.

    Every rank calls it, for `generate` may be a collective; the one with `write` (which has the scorers) scores and
    gets the measurement. have: what `exists` said there, the same on every rank; None asks here. suite: the suite that
    the rows are of; without one they are the evaluation set.
    """
    part = "" if suite is None else suite_folder(suite.name)
    if have if have is not None else exists(workspace, subject, version, part):
        return read(workspace, subject, part) if write else None
    everything = rows[:]
    answers = generate(everything, [row_seed(plan.training.seed, row.number) for row in everything])
    if not write:
        return None
    if scorers is None or len(answers) != len(rows):
        raise ValueError(f"{len(answers)} texts for {len(rows)} evaluation rows, scorers: {scorers is not None}")
    names = scorers_of(plan) if suite is None else [suite.scorer]
    texts = _Texts([row.prompt for row in everything], [each.text for each in answers], [r.fields for r in everything])
    scores = {name: scorers.score(name, texts.prompts, texts.answers, texts.fields) for name in names}
    judged = _judged(plan, workspace, texts, scorers) if suite is None and subject == POLICY else {}
    columns = _columns(plan, everything) if suite is None else []
    measurement = Measurement(
        header=Header(
            subject=subject,
            version=version,
            plan_digest=plan.digest(),
            dataset_digest=rows.record.digest,
            scorers={name: scorers.digest(name) for name in names},
            rows=len(rows),
        ),
        rows=tuple(
            RowScore(
                row=row.number,
                prompt=hashlib.sha256(row.prompt.encode()).hexdigest(),
                text=answer.text.encode(errors="replace").decode(),
                scores={name: scores[name][at] for name in names},
                judged={
                    baseline: {name: verdicts[at] for name, verdicts in by_scorer.items()}
                    for baseline, by_scorer in judged.items()
                },
                slices=values_of(row.fields, columns),
                kl=answer.kl,
            )
            for at, (row, answer) in enumerate(zip(everything, answers, strict=True))
        ),
    )
    store(measurement, workspace, part, before_rename)
    return measurement


@dataclass(frozen=True)
class _Texts:
    """Prompts, a policy's answers and the rows' fields, each by row."""

    prompts: list[str]
    answers: list[str]
    fields: list[Mapping[str, Any]]


def _judged(
    plan: TrainingPlan, workspace: Path, texts: _Texts, scorers: "Scorers"
) -> dict[str, dict[str, list[Score]]]:
    """What judges that compare say of the policy's texts beside each baseline's, by baseline and scorer."""
    assert plan.evaluation is not None
    verdicts: dict[str, dict[str, list[Score]]] = {}
    for baseline in plan.evaluation.baselines:
        other = found(workspace, baseline)
        for name in plan.evaluation.scorers:
            judge = scorers.judge(name)
            if other is not None and isinstance(judge, Comparer):
                theirs = [row.text for row in other.rows]
                found_here = judge.compare(texts.prompts, texts.answers, theirs, texts.fields)
                verdicts.setdefault(baseline, {})[name] = [
                    None if isinstance(each, Missing) else each for each in found_here
                ]
    return verdicts


def _columns(plan: TrainingPlan, rows: Sequence[PreparedRow]) -> list[str]:
    """The columns to slice by. Raises ConfigError for one that no row has."""
    slices = plan.evaluation.slices if plan.evaluation is not None else None
    if slices is None:
        return []
    unknown = [name for name in slices.columns if all(row.fields.get(name) is None for row in rows)]
    if unknown:
        known = ", ".join(sorted({name for row in rows[:100] for name in row.fields})[:20])
        raise ConfigError(
            f"evaluation.slices.columns: no row of the evaluation data has {', '.join(unknown)}; it has {known}",
            reason="NoSuchColumn",
        )
    return slices.columns


def scorers_of(plan: TrainingPlan) -> list[str]:
    """Every scorer that an evaluation asks: the gate's, those that are optimised, the monitors."""
    gate = plan.evaluation.scorers if plan.evaluation is not None else []
    return list(dict.fromkeys([*gate, *(reward.scorer for reward in plan.rewards), *plan.monitors]))


def comparisons(plan: TrainingPlan, workspace: Path) -> list[Comparison]:
    """The policy against every measured baseline by every scorer of the gate, recomputed from the stored scores.

    What can't be compared (not measured, other rows, another version of the scorer, no score at all) is left out; the
    gate then says so.
    """
    policy = found(workspace, POLICY) if plan.evaluation is not None else None
    if plan.evaluation is None or policy is None:
        return []
    names = plan.evaluation.scorers or list(policy.header.scorers)
    compared = []
    for baseline in plan.evaluation.baselines:
        other = found(workspace, baseline)
        if other is not None:
            each = (compare(policy, other, name, plan.training.seed) for name in names)
            compared += [comparison for comparison in each if comparison is not None]
    return compared


def compare(policy: Measurement, baseline: Measurement, scorer: str, seed: int) -> Comparison | None:
    """One comparison; None when the two can't be compared by this scorer."""
    if not _comparable(policy, baseline, scorer):
        return None
    prompts = [row.prompt for row in policy.rows]
    subject = baseline.header.subject
    figures = estimate(_side(policy, scorer), _side(baseline, scorer), prompts, seed, policy.judged(subject, scorer))
    if figures is None:
        return None
    return Comparison(
        scorer=scorer,
        baseline=subject,
        win_rate=figures.win_rate,
        lower=figures.lower,
        upper=figures.upper,
        mean=figures.mean,
        baseline_mean=figures.baseline_mean,
        prompts=figures.prompts,
        # Beside the ones that a gate holds against limits, for people: short, so that last words have room for more.
        gain=round_figure(figures.mean - figures.baseline_mean),
        gain_lower=None if figures.gain_lower is None else round_figure(figures.gain_lower),
        gain_upper=None if figures.gain_upper is None else round_figure(figures.gain_upper),
        length_controlled=round_figure(figures.length_controlled),
        length_ratio=None if figures.length_ratio is None else round_figure(figures.length_ratio),
    )


def suite_scores(plan: TrainingPlan, workspace: Path) -> list[SuiteScore]:
    """The policy against the base model on every suite that both were measured on."""
    scores = []
    for suite in (plan.evaluation.suites if plan.evaluation is not None else None) or []:
        part = suite_folder(suite.name)
        policy, base = found(workspace, POLICY, part), found(workspace, BASE, part)
        if policy is None or base is None or not _comparable(policy, base, suite.scorer):
            continue
        sides = zip(policy.scores(suite.scorer), base.scores(suite.scorer), strict=True)
        both = [(ours, theirs) for ours, theirs in sides if ours is not None and theirs is not None]
        if both:
            means = [sum(side) / len(both) for side in zip(*both, strict=True)]
            scores.append(
                SuiteScore(suite=suite.name, scorer=suite.scorer, mean=means[0], baseline_mean=means[1], rows=len(both))
            )
    return scores


def all_slices(plan: TrainingPlan, workspace: Path) -> list[SliceScore]:
    """The policy against the base model in every slice by every scorer of the gate, the furthest fall first."""
    evaluation = plan.evaluation
    policy, base = found(workspace, POLICY), found(workspace, BASE)
    if evaluation is None or evaluation.slices is None or policy is None or base is None:
        return []
    scores = []
    for name in evaluation.scorers:
        if _comparable(policy, base, name):
            scores += slice_scores(name, [row.slices for row in policy.rows], policy.scores(name), base.scores(name))
    return sorted(scores, key=lambda each: -each.drop)


def _comparable(policy: Measurement, baseline: Measurement, scorer: str) -> bool:
    digest = policy.header.scorers.get(scorer)
    same_rows = [(row.row, row.prompt) for row in policy.rows] == [(row.row, row.prompt) for row in baseline.rows]
    return digest is not None and digest == baseline.header.scorers.get(scorer) and same_rows


def _side(measured: Measurement, scorer: str) -> Side:
    return Side(measured.scores(scorer), [len(row.text) for row in measured.rows])


def figures(plan: TrainingPlan, workspace: Path) -> dict[str, float]:
    """What was measured of every policy.

    `eval/<scorer>/<subject>` mean score, `evalCharacters/<subject>` mean length, `evalDistinct2/<subject>` diversity,
    `evalKL/Policy` mean KL to the reference model, `suite/<suite>/<subject>` mean score on a suite.
    """
    known: dict[str, float] = {}
    for subject in SUBJECTS:
        measured = found(workspace, subject)
        if measured is None:
            continue
        known |= {f"eval/{name}/{subject}": value for name, value in _means(plan, measured).items()}
        known[f"evalCharacters/{subject}"] = sum(len(row.text) for row in measured.rows) / len(measured.rows)
        known[f"evalDistinct2/{subject}"] = distinct_words(row.text for row in measured.rows)
        kl = mean([row.kl for row in measured.rows])
        if kl is not None:
            known[f"evalKL/{subject}"] = kl
    for score in suite_scores(plan, workspace):
        known |= {f"suite/{score.suite}/{BASE}": score.baseline_mean, f"suite/{score.suite}/{POLICY}": score.mean}
    return known


def means(plan: TrainingPlan, workspace: Path, subject: str) -> dict[str, float]:
    """One measured policy's mean scores by scorer; a scorer that gave none is left out."""
    return _means(plan, read(workspace, subject))


def _means(plan: TrainingPlan, measured: Measurement) -> dict[str, float]:
    known = {name: measured.mean(name) for name in scorers_of(plan)}
    return {name: value for name, value in known.items() if value is not None}


def write_samples(
    plan: TrainingPlan, workspace: Path, count: int = 8, before_rename: Callable[[], None] = lambda: None
) -> None:
    """Store some rows with every policy's text and scores, for people; spread evenly over the evaluation data."""
    rows = load_all(plan, workspace)[EVALUATION]
    measured = {name: each for name in SUBJECTS if (each := found(workspace, name)) is not None}
    step = max(1, len(rows) // count)
    samples = [
        {
            "row": rows[at].number,
            "prompt": rows[at].prompt,
            "texts": {name: each.rows[at].text for name, each in measured.items()},
            "scores": {name: each.rows[at].scores for name, each in measured.items()},
        }
        for at in list(range(0, len(rows), step))[:count]
    ]
    path = workspace / EVALUATION / SAMPLES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(samples, ensure_ascii=False, indent=2).encode(), before_rename)


def record_scorers(workspace: Path, scorers: "Scorers", before_rename: Callable[[], None] = lambda: None) -> None:
    """Store the digests of all scorers, for the artifact's lineage: the publish pod never loads a grader."""
    data = json.dumps(scorers.digests(), indent=2, sort_keys=True).encode()
    write_durably(workspace / SCORERS_FILE, data, before_rename)

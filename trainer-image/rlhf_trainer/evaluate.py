"""Evaluation: texts by fixed seeds, scores row by row in the workspace, comparisons from them. The gate is in gate.py.

<workspace>/evaluation/<subject>.jsonl   a header line, then one line per row
<workspace>/evaluation/samples.json      some rows before and after, for people
<workspace>/scorers.json                 what judged: scorer names and digests
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Comparison, Digest

from .comparison import estimate
from .data import Prepared, PreparedRow, load_all
from .errors import ConfigError
from .files import write_durably

if TYPE_CHECKING:
    from rlhf_scoring.scorers import Scorers

EVALUATION = "evaluation"
SCORERS_FILE = "scorers.json"
SAMPLES_FILE = "samples.json"
POLICY, BASE, WARM_START = "Policy", "Base", "WarmStart"

Generate = Callable[[Sequence[PreparedRow], Sequence[int]], list[str]]
"""(rows, one seed for each) -> one text for each, in order."""

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


class Measurement(Model):
    """Texts of one policy for every evaluation prompt, scored."""

    header: Header
    rows: tuple[RowScore, ...]

    def scores(self, scorer: str) -> list[float | None]:
        """One scorer's scores, by row."""
        return [row.scores.get(scorer) for row in self.rows]

    def mean(self, scorer: str) -> float | None:
        """Mean of the scores that there are."""
        found = [score for score in self.scores(scorer) if score is not None]
        return sum(found) / len(found) if found else None


def row_seed(seed: int, row: int) -> int:
    """The seed of one evaluation row: the same for every policy, step, world size and order. 0 … 2^63 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed}/evaluation/{row}".encode()).digest()[:8], "big") >> 1


def exists(workspace: Path, subject: str, version: str = "") -> bool:
    """Whether this subject (of this version) was measured, by this attempt or by a former one."""
    path = _path(workspace, subject)
    if not path.is_file() or (subject.startswith(POLICY) and not version):
        return False
    with path.open("rb") as file:
        return _header(file.readline(), path).version == version


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
    before_rename: Callable[[], None] = lambda: None,
) -> Measurement | None:
    """Generate, score and store; or read what is stored already, without generating.

    Every rank calls it, for `generate` may be a collective; the one with `write` (which has the scorers) scores and
    gets the measurement. have: what `exists` said there, the same on every rank; None asks here.
    """
    if have if have is not None else exists(workspace, subject, version):
        return read(workspace, subject) if write else None
    everything = rows[:]
    texts = generate(everything, [row_seed(plan.training.seed, row.number) for row in everything])
    if not write:
        return None
    if scorers is None or len(texts) != len(rows):
        raise ValueError(f"{len(texts)} texts for {len(rows)} evaluation rows, scorers: {scorers is not None}")
    names = scorers_of(plan)
    prompts, fields = [row.prompt for row in everything], [row.fields for row in everything]
    scores = {name: scorers.score(name, prompts, texts, fields) for name in names}
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
                text=text.encode(errors="replace").decode(),
                scores={name: scores[name][at] for name in names},
            )
            for at, (row, text) in enumerate(zip(everything, texts, strict=True))
        ),
    )
    _store(measurement, workspace, before_rename)
    return measurement


def scorers_of(plan: TrainingPlan) -> list[str]:
    """Every scorer that an evaluation asks: the gate's, those that are optimised, the monitors."""
    gate = plan.evaluation.scorers if plan.evaluation is not None else []
    return list(dict.fromkeys([*gate, *(reward.scorer for reward in plan.rewards), *plan.monitors]))


def read(workspace: Path, subject: str) -> Measurement:
    """What was measured. Raises ConfigError when it is not there or can't be read."""
    path = _path(workspace, subject)
    try:
        first, *lines = path.read_bytes().splitlines()
        header = _header(first, path)
        rows = tuple(RowScore.model_validate_json(line) for line in lines)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the evaluation of {subject} in {path} can't be read: {error}") from error
    if len(rows) != header.rows:
        raise ConfigError(f"the evaluation of {subject} in {path} has {len(rows)} rows, its header says {header.rows}")
    return Measurement(header=header, rows=rows)


def comparisons(plan: TrainingPlan, workspace: Path) -> list[Comparison]:
    """The policy against every measured baseline by every scorer of the gate, recomputed from the stored scores.

    What can't be compared (not measured, other rows, another version of the scorer, no score at all) is left out; the
    gate then says so.
    """
    if plan.evaluation is None or not _path(workspace, POLICY).is_file():
        return []
    policy = read(workspace, POLICY)
    names = plan.evaluation.scorers or list(policy.header.scorers)
    found = []
    for baseline in plan.evaluation.baselines:
        if not _path(workspace, baseline).is_file():
            continue
        other = read(workspace, baseline)
        found += [
            comparison for name in names if (comparison := compare(policy, other, name, plan.training.seed)) is not None
        ]
    return found


def compare(policy: Measurement, baseline: Measurement, scorer: str, seed: int) -> Comparison | None:
    """One comparison; None when the two can't be compared by this scorer."""
    digest = policy.header.scorers.get(scorer)
    same_rows = [(row.row, row.prompt) for row in policy.rows] == [(row.row, row.prompt) for row in baseline.rows]
    if digest is None or digest != baseline.header.scorers.get(scorer) or not same_rows:
        return None
    prompts = [row.prompt for row in policy.rows]
    figures = estimate(policy.scores(scorer), baseline.scores(scorer), prompts, seed)
    if figures is None:
        return None
    return Comparison(
        scorer=scorer,
        baseline=baseline.header.subject,
        win_rate=figures.win_rate,
        lower=figures.lower,
        upper=figures.upper,
        mean=figures.mean,
        baseline_mean=figures.baseline_mean,
        prompts=figures.prompts,
    )


def figures(plan: TrainingPlan, workspace: Path) -> dict[str, float]:
    """Mean scores of every measured policy: `eval/<scorer>/<subject>`."""
    found: dict[str, float] = {}
    for subject in (BASE, WARM_START, POLICY):
        if _path(workspace, subject).is_file():
            found |= {f"eval/{name}/{subject}": mean for name, mean in means(plan, workspace, subject).items()}
    return found


def means(plan: TrainingPlan, workspace: Path, subject: str) -> dict[str, float]:
    """One measured policy's mean scores by scorer; a scorer that gave none is left out."""
    measured = read(workspace, subject)
    found = {name: measured.mean(name) for name in scorers_of(plan)}
    return {name: mean for name, mean in found.items() if mean is not None}


def write_samples(
    plan: TrainingPlan, workspace: Path, count: int = 8, before_rename: Callable[[], None] = lambda: None
) -> None:
    """Store some rows with every policy's text and scores, for people; spread evenly over the evaluation data."""
    rows = load_all(plan, workspace)[EVALUATION]
    subjects = [name for name in (BASE, WARM_START, "Parent", POLICY) if _path(workspace, name).is_file()]
    measured = {name: read(workspace, name) for name in subjects}
    step = max(1, len(rows) // count)
    samples = [
        {
            "row": rows[at].number,
            "prompt": rows[at].prompt,
            "texts": {name: measured[name].rows[at].text for name in subjects},
            "scores": {name: measured[name].rows[at].scores for name in subjects},
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


def _path(workspace: Path, subject: str) -> Path:
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(f"{subject!r} names no policy")
    return workspace / EVALUATION / f"{subject}.jsonl"


def _header(line: bytes, path: Path) -> Header:
    try:
        return Header.model_validate_json(line)
    except ValidationError as error:
        raise ConfigError(f"{path} does not begin with a header: {error.errors()[0]['msg']}") from error


def _store(measurement: Measurement, workspace: Path, before_rename: Callable[[], None]) -> None:
    path = _path(workspace, measurement.header.subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [measurement.header.model_dump_json(by_alias=True)]
    lines += [row.model_dump_json(by_alias=True) for row in measurement.rows]
    write_durably(path, ("\n".join(lines) + "\n").encode(), before_rename)

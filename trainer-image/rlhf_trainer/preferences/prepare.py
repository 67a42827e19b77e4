"""From a plan's judged data to frozen training pairs and their report. One process prepares, the others load."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_operator.api.plan import PlanDataset
from rlhf_operator.api.result import DatasetRecord
from rlhf_operator.api.rewardmodel import Aggregation
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_scoring.judge import digest_of
from rlhf_trainer.data.prepare import DATA
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import sync_directory, sync_file, write_durably

from . import split
from .collect import Collected, Kept, collect, kept_comparisons
from .datareport import DataReport, PartCount, RoundCounts
from .groups import group_prompts
from .judged import Judged
from .split import Assignment, Part
from .store import JudgedRows, read_judged, write_judged

JUDGEMENTS = "judgements"
ROWS_FILE = "rows.arrow"
REPORT_FILE = "report.json"

Check = Callable[[], None]


class Parts(NamedTuple):
    """One round: what is trained on, what the temperature is fitted on, what is measured on."""

    train: Sequence[Judged]
    calibration: Sequence[Judged]
    held_out: Sequence[Judged]


@dataclass(frozen=True, slots=True)
class Judgements:
    """The data of a version, ready for training and measuring."""

    rounds: list[Parts]
    """Rounds that are measured: one, or one for each fold; none where the plan has nothing to measure on."""
    final: Parts
    """What the version itself is trained on; `rounds[0]` unless there are folds."""
    data: DataReport

    @property
    def datasets(self) -> list[DatasetRecord]:
        """Digests and counts, for result.json."""
        return [dataset.record for dataset in self.data.datasets]


def prepare_judgements(plan: RewardPlan, workspace: Path, *, before_rename: Check = lambda: None) -> Judgements:
    """Prepare the plan's judged data below the workspace; what is there already is used as it is.

    `before_rename` is called before anything appears under its final name, and may raise. Raises ConfigError for data
    that can't be used.
    """
    directory = workspace / DATA
    directory.mkdir(parents=True, exist_ok=True)
    before_rename()
    for left in directory.glob(f".{JUDGEMENTS}.*"):
        # Half-written by an attempt that was killed; one that still runs has been superseded.
        shutil.rmtree(left, ignore_errors=True)
    folder = directory / JUDGEMENTS
    if not (folder / REPORT_FILE).is_file():
        with tempfile.TemporaryDirectory(prefix=f".{JUDGEMENTS}.", dir=directory) as temporary:
            work = Path(temporary) / JUDGEMENTS
            work.mkdir()
            _prepare(plan, work)
            before_rename()
            _rename(work, folder)
    return load_judgements(plan, workspace)


def load_judgements(plan: RewardPlan, workspace: Path) -> Judgements:
    """What `prepare_judgements` stored for this plan. Raises ConfigError when it is another plan's."""
    folder = workspace / DATA / JUDGEMENTS
    report = DataReport.model_validate_json((folder / REPORT_FILE).read_bytes())
    if report.key != _key(plan):
        raise ConfigError(f"{folder} was prepared for another plan; a workspace holds one plan")
    table, parts = read_judged(folder / ROWS_FILE)

    def part(number: int, wanted: Part) -> JudgedRows:
        return JudgedRows(table, np.flatnonzero(parts[:, number] == wanted))

    rounds = [
        Parts(part(number, Part.TRAIN), part(number, Part.CALIBRATION), part(number, Part.HELD_OUT))
        for number in range(len(report.rounds))
    ]
    final = rounds[-1] if rounds else Parts((), (), ())
    measured = rounds[:-1] if len(rounds) > 1 else rounds
    return Judgements([each for each in measured if len(each.held_out)], final, report)


def _prepare(plan: RewardPlan, work: Path) -> None:
    seed = plan.train.seed if plan.train is not None else 0
    rules = plan.train.aggregation if plan.train is not None else Aggregation()
    sets: list[tuple[Kept, bool]] = []
    evaluation: Collected | None = None
    if plan.evaluation.dataset is not None:
        evaluation = _collect(plan, plan.evaluation.dataset, work, None)
        sets.append((kept_comparisons(evaluation, rules, (), seed), True))
    if plan.train is not None:
        found = _collect(plan, plan.train.dataset, work, evaluation)
        sets.append((kept_comparisons(found, rules, plan.dimensions, seed), False))
    grouped = group_prompts(_prompts([kept.source for kept, _ in sets]))
    groups = [(grouped.group[each.judgement.prompt], measured) for kept, measured in sets for each, _ in kept.rows]
    rounds, words = _rounds(plan, groups, seed)
    assigned = [[each[measured, group] for each in rounds] for group, measured in groups]
    judged = (row for kept, _ in sets for row in kept.judged(grouped))
    write_judged(work / ROWS_FILE, zip(judged, assigned, strict=True))
    for kept, _ in sets:
        kept.source.discard()
    report = DataReport(
        key=_key(plan),
        method=rules.method,
        min_agreement=rules.min_agreement,
        ties=rules.ties,
        datasets=tuple(kept.report for kept, _ in sets),
        split=words,
        rounds=tuple(_counts([group for group, _ in groups], assigned, at) for at in range(len(rounds))),
        prompt_groups=len({group for group, _ in groups}),
    )
    write_durably(work / REPORT_FILE, report.model_dump_json(by_alias=True, indent=2).encode())


def _collect(plan: RewardPlan, dataset: PlanDataset, work: Path, held_out: Collected | None) -> Collected:
    columns = plan.evaluation.slice_columns
    return collect(dataset, plan.dimensions, columns, work, held_out, keep_fields=bool(plan.graders))


def _prompts(sources: Iterable[Collected]) -> Iterator[tuple[bytes, str]]:
    """Each different prompt of all data sets once: its key and its text."""
    seen = set()
    for source in sources:
        for own, text in source.prompts():
            if own not in seen:
                seen.add(own)
                yield own, text


Rounds = list[dict[tuple[bool, int], Part]]
"""By round: (row of the evaluation data?, group) → part."""


def _rounds(plan: RewardPlan, rows: list[tuple[int, bool]], seed: int) -> tuple[Rounds, str]:
    """Who trains and who is measured, the final round last, and the same in words."""
    own = {group for group, measured in rows if not measured}
    apart = {group for group, measured in rows if measured}
    if plan.evaluation.dataset is not None:
        # Near prompts are dropped from training already; whatever else fell into one group is measured only.
        calibrate = plan.model is not None
        assigned = _of(split.measuring(apart, seed, calibrate=calibrate), measured=True)
        assigned |= _of(split.training(own - apart, seed), measured=False)
        assigned |= {(False, group): Part.UNUSED for group in own & apart}
        return [assigned], f"measured on data of its own, {plan.evaluation.dataset.ref}"
    if plan.train is None:
        return [], "nothing to measure on"
    if plan.evaluation.folds is not None:
        found = [*split.folds(own, plan.evaluation.folds, seed), split.training(own, seed)]
        return [_of(each, measured=False) for each in found], f"{plan.evaluation.folds} folds by prompt, seed {seed}"
    fraction = plan.evaluation.held_out_fraction
    if fraction is None:
        return [_of(split.training(own, seed), measured=False)], "nothing is held out"
    words = f"{fraction:g} of the prompts held out, seed {seed}"
    return [_of(split.held_out(own, fraction, seed), measured=False)], words


def _of(assignment: Assignment, *, measured: bool) -> dict[tuple[bool, int], Part]:
    return {(measured, group): part for group, part in assignment.items()}


def _counts(groups: list[int], assigned: list[list[Part]], number: int) -> RoundCounts:
    def count(wanted: Part) -> PartCount:
        own = [group for group, parts in zip(groups, assigned, strict=True) if parts[number] is wanted]
        return PartCount(comparisons=len(own), prompts=len(set(own)))

    return RoundCounts(train=count(Part.TRAIN), calibration=count(Part.CALIBRATION), held_out=count(Part.HELD_OUT))


def _key(plan: RewardPlan) -> str:
    train = plan.train
    own = None if train is None else [train.dataset.dump(), train.aggregation.dump(), train.seed]
    evaluation = plan.evaluation.dump()
    evaluation.pop("mustPrefer", None)
    return digest_of("judgements/1", own, evaluation, plan.dimensions, plan.model is not None)


def _rename(work: Path, folder: Path) -> None:
    for path in (work / ROWS_FILE, work / REPORT_FILE):
        sync_file(path)
    sync_directory(work)
    try:
        work.rename(folder)
    except OSError:
        # Another attempt was first. The same plan gives the same rows.
        if not (folder / REPORT_FILE).is_file():
            raise
    sync_directory(folder.parent)

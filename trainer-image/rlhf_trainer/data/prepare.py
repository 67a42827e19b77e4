"""From a plan's sources to frozen rows: read, check each alone and against the others, tokenise, store, report."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_operator.api.algorithms import Algorithm
from rlhf_operator.api.plan import PlanDataset, TrainingPlan
from rlhf_operator.api.result import DatasetRecord
from rlhf_scoring.judge import digest_of
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import sync_directory, sync_file, write_durably

from .fitting import Encode, Fitting
from .reasons import Counter, DropReason, Report, Tally, summary
from .rows import Unusable, check_format, meaning
from .sources import Source
from .store import REPORT_FILE, ROWS_FILE, Prepared, RowWriter, stored_rows

if TYPE_CHECKING:
    from .checks import Checks, RowIndex

DATA = "data"
EVALUATION, WARM_START, TRAIN = "evaluation", "warmStart", "train"
LEARNS_FROM_JUDGEMENTS = (Algorithm.DPO, Algorithm.KTO)
_SUITE = "suite-"
_COLUMNS_SHOWN = 40

Check = Callable[[], None]


def prepare_all(
    plan: TrainingPlan, workspace: Path, encode: Encode, *, before_rename: Check = lambda: None
) -> dict[str, Prepared]:
    """Prepare every data set of the plan below the workspace. One process does it; the others `load_all` afterwards.

    What is there already is used as it is: the sources are read once in a plan's life. `encode` turns prompts into
    the tokens that the policy sees. `before_rename` is called before anything appears under its final name, and may
    raise. Raises ConfigError for data that can't be used.
    """
    directory = workspace / DATA
    directory.mkdir(parents=True, exist_ok=True)
    before_rename()
    for left in directory.glob(".*"):
        # Half-written by an attempt that was killed; one that still runs has been superseded.
        shutil.rmtree(left, ignore_errors=True)
    held_out: dict[str, Prepared] = {}
    for name, dataset in _datasets(plan):
        folder = directory / name
        if not (folder / REPORT_FILE).is_file():
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=directory) as temporary:
                work = Path(temporary) / name
                work.mkdir()
                _prepare_one(name, dataset, plan, work, encode, held_out if _is_trained_on(name) else {})
                before_rename()
                _rename(work, folder)
        if not _is_trained_on(name):
            held_out[name] = _load_one(plan, directory, name, dataset)
    return load_all(plan, workspace)


def load_all(plan: TrainingPlan, workspace: Path) -> dict[str, Prepared]:
    """What `prepare_all` stored for this plan, by name. Raises ConfigError when it is another plan's."""
    return {name: _load_one(plan, workspace / DATA, name, dataset) for name, dataset in _datasets(plan)}


def _datasets(plan: TrainingPlan) -> Iterator[tuple[str, PlanDataset]]:
    """The plan's data sets by folder; evaluation and suites first, for what is trained on is held against them."""
    if plan.evaluation is not None:
        yield EVALUATION, plan.evaluation.dataset
        for suite in plan.evaluation.suites or []:
            yield suite_folder(suite.name), suite.dataset
    if plan.warm_start is not None:
        yield WARM_START, plan.warm_start.dataset
    yield TRAIN, plan.dataset


def suite_folder(name: str) -> str:
    """The folder of a suite's rows."""
    return f"{_SUITE}{name}"


def _is_trained_on(name: str) -> bool:
    return name != EVALUATION and not name.startswith(_SUITE)


def _load_one(plan: TrainingPlan, directory: Path, name: str, dataset: PlanDataset) -> Prepared:
    prepared = Prepared(directory / name)
    if prepared.report.key != _key(plan, name, dataset):
        raise ConfigError(f"{directory / name} was prepared for another plan; a workspace holds one plan")
    return prepared


def _key(plan: TrainingPlan, name: str, dataset: PlanDataset) -> str:
    held_out = plan.evaluation.dataset.dump() if plan.evaluation is not None and _is_trained_on(name) else None
    suites = [suite.dataset.dump() for suite in (plan.evaluation.suites if plan.evaluation is not None else None) or []]
    return digest_of("data/1", dataset.dump(), plan.generation.dump(), held_out, *suites)


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


def _prepare_one(
    name: str, dataset: PlanDataset, plan: TrainingPlan, work: Path, encode: Encode, held_out: Mapping[str, Prepared]
) -> None:
    # Here and not at the top: MinHash brings a library that takes seconds to import, and resumes don't need it.
    from .checks import Checks

    check_format(name, dataset.format, dataset.columns)
    source = Source(dataset.path, dataset.ref)
    digest = source.digest()
    if dataset.digest is not None and dataset.digest != digest:
        raise ConfigError(
            f"{name}: {dataset.ref} has digest {digest}, the job wants {dataset.digest}: put the data back, "
            "or make a new job with the new digest",
            reason="DigestMismatch",
        )
    counter = Counter()
    staged = work / "staged.arrow"
    checks = Checks(dataset.format, held_out)
    fitting = Fitting(plan.generation, encode, judged=name == TRAIN and plan.algorithm in LEARNS_FROM_JUDGEMENTS)
    total, columns = _stage(source, dataset, staged, counter, checks.index)
    used = _select(staged, work / ROWS_FILE, checks, fitting, counter)
    staged.unlink()
    tallies = counter.tallies()
    if used == 0:
        raise ConfigError(
            f"{name}: none of the {total} rows of {dataset.ref} can be used: {summary(tallies) or 'it is empty'}. "
            f"Columns found: {', '.join(columns) or 'none'}. Mend the data or the columns",
            reason="NoRows",
        )
    dropped = {reason.value: tally.count for reason, tally in tallies.items()}
    record = DatasetRecord(name=name, digest=digest, rows=total, used=used, dropped=dropped)
    report = Report(
        key=_key(plan, name, dataset),
        ref=dataset.ref,
        record=record,
        dropped=tallies,
        near_duplicates=checks.near_duplicates.tally(),
        near_duplicates_checked=checks.near_duplicates.checked,
        truncated_prompts=fitting.truncated.tallies().get(DropReason.OVERLONG_PROMPT, Tally()),
        columns=tuple(columns),
    )
    write_durably(work / REPORT_FILE, report.model_dump_json(by_alias=True, indent=2).encode())


def _stage(
    source: Source, dataset: PlanDataset, staged: Path, counter: Counter, index: "RowIndex"
) -> tuple[int, list[str]]:
    """Write the rows that are right by themselves; returns the number of all rows, and the columns seen."""
    total = 0
    columns: dict[str, None] = {}
    with RowWriter(staged) as writer:
        for found in source.rows():
            total = found.number
            if found.value is None:
                counter.add(found.problem or DropReason.NOT_JSON, found.number, found.detail)
                continue
            if len(columns) < _COLUMNS_SHOWN:
                columns |= dict.fromkeys(str(name)[:80] for name in list(found.value)[:_COLUMNS_SHOWN])
            try:
                row = meaning(dataset.format, dataset.columns, found.number, found.value)
            except Unusable as problem:
                counter.add(problem.reason, found.number, problem.detail)
                continue
            index.note(row)
            writer.add(row)
    return total, list(columns)[:_COLUMNS_SHOWN]


def _select(staged: Path, final: Path, checks: "Checks", fitting: Fitting, counter: Counter) -> int:
    """Write the rows that also stand beside each other, and fit; returns their number."""
    with RowWriter(final) as writer:
        for batch in stored_rows(staged):
            kept = fitting.fit(checks.standing(batch, counter), counter)
            checks.near_duplicates.note([row for row, _ in kept])
            for row, prompt_ids in kept:
                writer.add(row, prompt_ids)
        # The context's end writes what is left; the count is whole already.
        return writer.rows

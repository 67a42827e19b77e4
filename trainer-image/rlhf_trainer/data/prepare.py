"""From a plan's sources to frozen rows: read, check each alone and against the others, tokenise, store, report."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rlhf_operator.api.plan import PlanDataset, TrainingPlan
from rlhf_operator.api.result import DatasetRecord
from rlhf_operator.api.rlhfjob import Generation, OverlongPrompt
from rlhf_operator.api.shared import Format
from rlhf_scoring.judge import digest_of
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import sync_directory, sync_file, write_durably

from .reasons import EXAMPLES_KEPT, Counter, DropReason, Example, Report, Tally, example, summary
from .rows import Row, Unusable, check_format, meaning
from .similarity import NearIndex, key, near_to, shingles_of, signatures
from .sources import Source
from .store import REPORT_FILE, ROWS_FILE, Prepared, RowWriter, stored_rows

DATA = "data"
EVALUATION, WARM_START, TRAIN = "evaluation", "warmStart", "train"
NEAR_DUPLICATE_ROWS = 50_000
"""Rows that are looked at for near duplicates: the index holds about 2 kB for each."""
_COLUMNS_SHOWN = 40

Check = Callable[[], None]
Encode = Callable[[list[str]], list[list[int]]]


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
    evaluation = None
    for name, dataset in _datasets(plan):
        folder = directory / name
        if not (folder / REPORT_FILE).is_file():
            with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=directory) as temporary:
                work = Path(temporary) / name
                work.mkdir()
                _prepare_one(name, dataset, plan, work, encode, evaluation)
                before_rename()
                _rename(work, folder)
        if name == EVALUATION:
            evaluation = _load_one(plan, directory, name, dataset)
    return load_all(plan, workspace)


def load_all(plan: TrainingPlan, workspace: Path) -> dict[str, Prepared]:
    """What `prepare_all` stored for this plan, by name. Raises ConfigError when it is another plan's."""
    return {name: _load_one(plan, workspace / DATA, name, dataset) for name, dataset in _datasets(plan)}


def _datasets(plan: TrainingPlan) -> Iterator[tuple[str, PlanDataset]]:
    """The plan's data sets by folder; the evaluation set first, for the others are held against it."""
    if plan.evaluation is not None:
        yield EVALUATION, plan.evaluation.dataset
    if plan.warm_start is not None:
        yield WARM_START, plan.warm_start.dataset
    yield TRAIN, plan.dataset


def _load_one(plan: TrainingPlan, directory: Path, name: str, dataset: PlanDataset) -> Prepared:
    prepared = Prepared(directory / name)
    if prepared.report.key != _key(plan, name, dataset):
        raise ConfigError(f"{directory / name} was prepared for another plan; a workspace holds one plan")
    return prepared


def _key(plan: TrainingPlan, name: str, dataset: PlanDataset) -> str:
    held_out = plan.evaluation.dataset.dump() if plan.evaluation is not None and name != EVALUATION else None
    return digest_of("data/1", dataset.dump(), plan.generation.dump(), held_out)


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
    name: str, dataset: PlanDataset, plan: TrainingPlan, work: Path, encode: Encode, held_out: Prepared | None
) -> None:
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
    index = _RowIndex(dataset.format)
    total, columns = _stage(source, dataset, staged, counter, index)
    near = _NearDuplicates()
    used = _select(staged, work / ROWS_FILE, plan, encode, counter, index, _HeldOut(held_out), near)
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
        near_duplicates=near.tally(),
        near_duplicates_checked=near.checked,
        columns=tuple(columns),
    )
    write_durably(work / REPORT_FILE, report.model_dump_json(by_alias=True, indent=2).encode())


def _stage(
    source: Source, dataset: PlanDataset, staged: Path, counter: Counter, index: "_RowIndex"
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


def _select(
    staged: Path,
    final: Path,
    plan: TrainingPlan,
    encode: Encode,
    counter: Counter,
    index: "_RowIndex",
    held_out: "_HeldOut",
    near: "_NearDuplicates",
) -> int:
    """Write the rows that also stand beside each other; returns their number."""
    with RowWriter(final) as writer:
        for batch in stored_rows(staged):
            kept = []
            for row in batch:
                problem = index.problem(row) or held_out.exact(row)
                if problem is not None:
                    counter.add(*problem)
                else:
                    kept.append(row)
            kept = held_out.without_near(kept, counter)
            kept_ids = _fitting(kept, plan.generation, encode, counter)
            near.note([row for row, _ in kept_ids])
            for row, prompt_ids in kept_ids:
                writer.add(row, prompt_ids)
        # The context's end writes what is left; the count is whole already.
        return writer.rows


def _fitting(rows: list[Row], generation: Generation, encode: Encode, counter: Counter) -> list[tuple[Row, list[int]]]:
    """The rows whose prompt (and demonstration) fit, with the prompts' tokens."""
    fitting = []
    prompts = encode([row.prompt for row in rows]) if rows else []
    responses = encode([row.response or "" for row in rows]) if any(row.response for row in rows) else [[]] * len(rows)
    for row, ids, response in zip(rows, prompts, responses, strict=True):
        if len(ids) > generation.max_prompt_length:
            detail = f"the prompt has {len(ids)} tokens, more than maxPromptLength {generation.max_prompt_length}"
            if generation.overlong_prompt is not OverlongPrompt.DROP:
                raise ConfigError(
                    f"row {row.number}: {detail}; raise maxPromptLength, or set overlongPrompt to Drop",
                    reason=DropReason.OVERLONG_PROMPT.value,
                )
            counter.add(DropReason.OVERLONG_PROMPT, row.number, detail)
        elif len(response) >= generation.max_response_length:
            # Cut, it would teach the policy never to end; the end token needs a place too.
            detail = f"the response has {len(response)} tokens, maxResponseLength is {generation.max_response_length}"
            counter.add(DropReason.OVERLONG_RESPONSE, row.number, detail)
        else:
            fitting.append((row, ids))
    return fitting


class _RowIndex:
    """What the rows of one data set say about each other: duplicates and contradictions."""

    def __init__(self, wanted: Format) -> None:
        self._format = wanted
        self._first: dict[bytes, int] = {}
        self._answers: dict[bytes, bytes] = {}
        self._contradicted: dict[bytes, int] = {}

    def note(self, row: Row) -> None:
        """Remember one row; every row is noted before the first is asked about."""
        own = self._own(row)
        self._first.setdefault(own, row.number)
        if self._format is Format.PAIRS:
            turned = key(row.prompt, row.rejected, row.chosen)
            if turned in self._first:
                self._contradicted.setdefault(own, self._first[turned])
                self._contradicted.setdefault(turned, row.number)
        elif row.answer is not None:
            prompt, answer = key(row.prompt), key(row.answer)
            if self._answers.setdefault(prompt, answer) != answer:
                self._contradicted.setdefault(prompt, row.number)

    def problem(self, row: Row) -> tuple[DropReason, int, str] | None:
        """Why a row does not stand beside the others."""
        own = self._own(row)
        contradicted = self._contradicted.get(own if self._format is Format.PAIRS else key(row.prompt))
        if contradicted is not None:
            return DropReason.CONTRADICTION, row.number, f"row {contradicted} says otherwise for the same prompt"
        first = self._first[own]
        if first != row.number:
            return DropReason.DUPLICATE, row.number, f"the same as row {first}"
        return None

    def _own(self, row: Row) -> bytes:
        if self._format is Format.PAIRS:
            return key(row.prompt, row.chosen, row.rejected)
        if self._format is Format.DEMONSTRATIONS:
            return key(row.prompt, row.response)
        return key(row.prompt)


class _HeldOut:
    """The evaluation prompts, which must not be trained on: a gate on known questions says nothing."""

    def __init__(self, evaluation: Prepared | None) -> None:
        prompts = [] if evaluation is None else list(evaluation.prompts())
        self._rows = {key(prompt): number for number, prompt in prompts}
        self._near: NearIndex | None = near_to(prompts) if prompts else None

    def exact(self, row: Row) -> tuple[DropReason, int, str] | None:
        number = self._rows.get(key(row.prompt))
        if number is None:
            return None
        return DropReason.IN_EVALUATION, row.number, f"its prompt is row {number} of the evaluation set"

    def without_near(self, rows: list[Row], counter: Counter) -> list[Row]:
        if self._near is None:
            return rows
        kept = []
        texts = ((row.number, row.prompt) for row in rows)
        for row, signature in zip(rows, signatures(texts), strict=True):
            number = self._near.find(signature)
            if number is None:
                kept.append(row)
            else:
                detail = f"its prompt is nearly row {number} of the evaluation set"
                counter.add(DropReason.NEAR_EVALUATION, row.number, detail)
        return kept


class _NearDuplicates:
    """Rows that nearly repeat an earlier one: counted for a person to look at, and kept."""

    def __init__(self) -> None:
        self._index = NearIndex()
        self._examples: list[Example] = []
        self._count = 0
        self.checked = 0

    def note(self, rows: list[Row]) -> None:
        rows = rows[: NEAR_DUPLICATE_ROWS - self.checked]
        self.checked += len(rows)
        # Rows that share a long prompt are alike as a whole; they repeat each other when their responses do.
        responses = ["\n".join(filter(None, (row.response or row.chosen, row.rejected))) for row in rows]
        texts = ((row.number, f"{row.prompt}\n{response}") for row, response in zip(rows, responses, strict=True))
        for signature, response in zip(signatures(texts), responses, strict=True):
            part = shingles_of(response)
            earlier = self._index.find(signature, part)
            if earlier is None:
                self._index.add(signature, part)
                continue
            self._count += 1
            if len(self._examples) < EXAMPLES_KEPT:
                self._examples.append(example(signature.row, f"nearly the same as row {earlier}"))

    def tally(self) -> Tally:
        return Tally(count=self._count, examples=tuple(self._examples))

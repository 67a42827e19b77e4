"""One judged data set: read, each row checked alone and against held-out prompts, aggregated, and what stands kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_operator.api.plan import PlanDataset
from rlhf_operator.api.result import DatasetRecord
from rlhf_operator.api.rewardmodel import Aggregation
from rlhf_trainer.data.cells import Unusable
from rlhf_trainer.data.reasons import Counter, DropReason, summary
from rlhf_trainer.data.similarity import near_to, signatures
from rlhf_trainer.data.sources import Source
from rlhf_trainer.errors import ConfigError

from .aggregate import Aggregated, Label, aggregate
from .agreement import agreement_figures
from .comparisons import Comparison, comparisons_of
from .datareport import AgreementFigures, DatasetReport
from .findings import findings, refuse_nothing_to_learn
from .groups import Grouped
from .judged import Judged
from .judgements import Judgement, RowReader
from .standing import standing
from .store import StagedTexts, TextWriter

_COLUMNS_SHOWN = 40


@dataclass(slots=True)
class Collected:
    """A data set's usable rows: judgements in memory, texts on disk."""

    dataset: PlanDataset
    digest: str
    rows: int
    columns: tuple[str, ...]
    annotators: tuple[str, ...]
    judgements: list[Judgement]
    texts: StagedTexts
    counter: Counter
    staged: Path

    def prompts(self) -> Iterator[tuple[bytes, str]]:
        """Each different prompt once: its key and its text."""
        seen = set()
        for judgement in self.judgements:
            if judgement.prompt not in seen:
                seen.add(judgement.prompt)
                yield judgement.prompt, self.texts.prompt(judgement.row)

    def discard(self) -> None:
        """Remove the staged texts."""
        self.staged.unlink(missing_ok=True)


def collect(
    dataset: PlanDataset,
    dimensions: list[str],
    slice_columns: list[str],
    work: Path,
    held_out: Collected | None,
    *,
    keep_fields: bool = False,
) -> Collected:
    """Read a data set. Rows whose prompt is (nearly) one of `held_out` are dropped. Raises ConfigError.

    keep_fields: whether graders will judge it, who see more than the texts.
    """
    reader = RowReader(dataset, dimensions, slice_columns, keep_fields=keep_fields)
    source = Source(dataset.path, dataset.ref)
    digest = source.digest()
    if dataset.digest is not None and dataset.digest != digest:
        raise ConfigError(
            f"{dataset.name}: {dataset.ref} has digest {digest}, the plan wants {dataset.digest}: put the data back, "
            "or set the new digest",
            reason="DigestMismatch",
        )
    counter = Counter()
    staged = work / f"{dataset.name}.staged.arrow"
    writer = TextWriter(staged)
    judgements: list[Judgement] = []
    columns: dict[str, None] = {}
    total = 0
    for found in source.rows():
        total = found.number
        if found.value is None:
            counter.add(found.problem or DropReason.NOT_JSON, found.number, found.detail)
            continue
        if len(columns) < _COLUMNS_SHOWN:
            columns |= dict.fromkeys(str(name)[:80] for name in list(found.value)[:_COLUMNS_SHOWN])
        try:
            judgement, texts = reader.read(found.number, found.value)
        except Unusable as problem:
            counter.add(problem.reason, found.number, problem.detail)
            continue
        judgements.append(judgement)
        writer.add(texts)
    collected = Collected(
        dataset=dataset,
        digest=digest,
        rows=total,
        columns=tuple(columns)[:_COLUMNS_SHOWN],
        annotators=reader.annotators,
        judgements=judgements,
        texts=writer.finish(),
        counter=counter,
        staged=staged,
    )
    if held_out is not None:
        collected.judgements = _without(collected, held_out)
    _refuse_empty(collected, len(collected.judgements))
    return collected


@dataclass(slots=True)
class Kept:
    """What is left of a data set, still without its texts."""

    source: Collected
    rows: list[tuple[Comparison, Label]]
    report: DatasetReport

    def judged(self, grouped: Grouped) -> Iterator[Judged]:
        """The rows with their texts, one after the other."""
        texts = self.source.texts
        for each, label in self.rows:
            yield Judged(
                row=each.judgement.row,
                prompt=texts.prompt(each.first.row),
                first=texts.response(*each.first),
                second=None if each.second is None else texts.response(*each.second),
                p_first=label.p_first,
                tie=label.tie,
                weight=each.weight,
                dimension=each.judgement.dimension,
                group=grouped.group[each.judgement.prompt],
                slices=each.judgement.slices,
                fields=texts.fields(each.first.row),
            )


def kept_comparisons(found: Collected, rules: Aggregation, learnt: Sequence[str], seed: int) -> Kept:
    """Aggregate a data set's judgements and keep what stands.

    learnt: dimensions that are trained from it. Raises ConfigError when one of them can't be, or nothing is left.
    """
    name = found.dataset.name
    comparisons = comparisons_of(found.dataset.format, found.judgements)
    odd = findings(name, found.judgements, comparisons)
    aggregated = aggregate(rules.method, comparisons)
    figures = _agreement(found, comparisons, aggregated, seed)
    stands = standing(comparisons, aggregated.labels, rules, found.counter)
    _refuse_empty(found, len(stands.kept))
    for dimension in learnt:
        own = [(each, label) for each, label in stands.kept if each.judgement.dimension == dimension]
        refuse_nothing_to_learn(
            name, dimension, [label.tie for _, label in own], [each.judgement.row for each, _ in own]
        )
    used = {place.row for each, _ in stands.kept for place in (each.first, each.second) if place is not None}
    tallies = found.counter.tallies()
    report = DatasetReport(
        ref=found.dataset.ref,
        record=DatasetRecord(
            name=name,
            digest=found.digest,
            rows=found.rows,
            used=len(used),
            dropped={reason.value: tally.count for reason, tally in tallies.items()},
        ),
        dropped=tallies,
        comparisons=len(stands.kept),
        comparisons_dropped=stands.dropped,
        ties=sum(label.tie for _, label in stands.kept),
        lone=sum(each.second is None for each, _ in stands.kept),
        findings=odd,
        agreement=figures,
        columns=found.columns,
    )
    return Kept(found, stands.kept, report)


def _agreement(
    found: Collected, comparisons: list[Comparison], aggregated: Aggregated, seed: int
) -> tuple[AgreementFigures, ...]:
    by_dimension: dict[str, list[Comparison]] = {}
    for each in comparisons:
        # A pair made of two rows holds no votes of annotators.
        if each.second is not None and each.judgement.verdicts:
            by_dimension.setdefault(each.judgement.dimension, []).append(each)
    return tuple(
        agreement_figures(dimension, found.annotators, own, aggregated.reliability.get(dimension), seed)
        for dimension, own in sorted(by_dimension.items())
    )


def _without(collected: Collected, held_out: Collected) -> list[Judgement]:
    """The judgements whose prompts are not, and not nearly, evaluated on; the others are counted."""
    known = {judgement.prompt: judgement.row for judgement in reversed(held_out.judgements)}
    index = near_to([(known[own], text) for own, text in held_out.prompts()])
    own = list(collected.prompts())
    near = {}
    for (prompt, _), signature in zip(own, signatures((0, text) for _, text in own), strict=True):
        row = index.find(signature)
        if row is not None:
            near[prompt] = row
    kept = []
    for judgement in collected.judgements:
        if judgement.prompt in known:
            detail = f"its prompt is row {known[judgement.prompt]} of the evaluation set"
            collected.counter.add(DropReason.IN_EVALUATION, judgement.row, detail)
        elif judgement.prompt in near:
            detail = f"its prompt is nearly row {near[judgement.prompt]} of the evaluation set"
            collected.counter.add(DropReason.NEAR_EVALUATION, judgement.row, detail)
        else:
            kept.append(judgement)
    return kept


def _refuse_empty(found: Collected, usable: int) -> None:
    if usable == 0:
        reasons = summary(found.counter.tallies()) or "it is empty"
        raise ConfigError(
            f"{found.dataset.name}: none of the {found.rows} rows of {found.dataset.ref} can be used: {reasons}. "
            f"Columns found: {', '.join(found.columns) or 'none'}. Mend the data or the columns",
            reason="NoRows",
        )

"""Prepared rows on disk: one memory-mapped Arrow file per data set, and its report."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import pyarrow as pa

from rlhf_operator.api.result import DatasetRecord

from .reasons import Report
from .rows import Row

ROWS_FILE = "rows.arrow"
REPORT_FILE = "report.json"
_BATCH = 1_024
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("prompt", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("answer", pa.string()),
        # JSON text: sources differ in their columns, and a column in its types.
        ("fields", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """One prepared row."""

    number: int
    """Its number in the source, from 1."""
    prompt: str
    prompt_ids: list[int]
    """The prompt's tokens, as the policy sees them."""
    response: str | None
    """Demonstrations: what to learn."""
    chosen: str | None
    rejected: str | None
    fields: dict[str, Any]
    """What graders see: the source's columns, `__row__`, and the columns by their meaning."""


class Prepared(Sequence[PreparedRow]):
    """The rows of one data set, in order. Memory-mapped: it may be larger than memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report = Report.model_validate_json((folder / REPORT_FILE).read_bytes())
        with pa.memory_map(str(folder / ROWS_FILE)) as source:
            self._table: pa.Table = pa.ipc.open_file(source).read_all()

    @property
    def record(self) -> DatasetRecord:
        """Digest and counts, for result.json."""
        return self.report.record

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> PreparedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PreparedRow]: ...
    def __getitem__(self, index: int | slice) -> PreparedRow | list[PreparedRow]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.folder.name}")
        values = self._table.slice(index % len(self), 1).to_pylist()[0]
        fields = json.loads(values.pop("fields"))
        values.pop("answer")
        return PreparedRow(fields=fields, **values)

    def judged(self) -> Iterator[tuple[bool, bool]]:
        """For every row, whether it has a chosen and whether it has a rejected response."""
        for batch in self._table.select(["chosen", "rejected"]).to_batches():
            columns = [column.is_valid().to_pylist() for column in batch.columns]
            yield from zip(*columns, strict=True)

    def prompts(self) -> Iterator[tuple[int, str]]:
        """Every row's number in the source, and its prompt."""
        for batch in self._table.select(["number", "prompt"]).to_batches():
            columns = batch.to_pydict()
            yield from zip(columns["number"], columns["prompt"], strict=True)


class RowWriter(AbstractContextManager["RowWriter"]):
    """Writes rows to an Arrow file, some at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMA)
        self._waiting: list[dict[str, Any]] = []
        self.rows = 0

    def add(self, row: Row, prompt_ids: list[int] | None = None) -> None:
        """Append one row."""
        self._waiting.append(
            {
                "number": row.number,
                "prompt": row.prompt,
                "prompt_ids": prompt_ids,
                "response": row.response,
                "chosen": row.chosen,
                "rejected": row.rejected,
                "answer": row.answer,
                "fields": json.dumps(row.fields),
            }
        )
        self.rows += 1
        if len(self._waiting) >= _BATCH:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, schema=SCHEMA))
            self._waiting = []


def stored_rows(path: Path) -> Iterable[list[Row]]:
    """The rows of a file, by batches."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield [
                Row(
                    number=item["number"],
                    prompt=item["prompt"],
                    response=item["response"],
                    chosen=item["chosen"],
                    rejected=item["rejected"],
                    answer=item["answer"],
                    fields=json.loads(item["fields"]),
                )
                for item in reader.get_batch(number).to_pylist()
            ]

"""Judged rows on disk: one memory-mapped Arrow file with the part each row has in every round."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .judged import Judged
from .judgements import Texts
from .split import Part

_BATCH = 1_024
_STAGED = pa.schema([("prompt", pa.string()), ("responses", pa.list_(pa.string())), ("fields", pa.string())])
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("prompt", pa.string()),
        ("first", pa.string()),
        ("second", pa.string()),
        ("p_first", pa.float64()),
        ("tie", pa.bool_()),
        ("weight", pa.float64()),
        ("dimension", pa.string()),
        ("group", pa.int64()),
        # JSON text: sources differ in their columns.
        ("slices", pa.string()),
        ("fields", pa.string()),
        # By round, the final one last.
        ("parts", pa.list_(pa.int8())),
    ]
)


class JudgedRows(Sequence[Judged]):
    """Some rows of the file, in order; each is read when it is asked for."""

    def __init__(self, table: pa.Table, places: NDArray[np.int64]) -> None:
        self._table = table
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Judged: ...
    @overload
    def __getitem__(self, index: slice) -> "JudgedRows": ...
    def __getitem__(self, index: int | slice) -> "Judged | JudgedRows":
        if isinstance(index, slice):
            return JudgedRows(self._table, self._places[index])
        return self._judged(self._table.slice(int(self._places[index]), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Judged]:
        for start in range(0, len(self._places), _BATCH):
            places = self._places[start : start + _BATCH]
            # `take` copies all that it is given: only the window that the rows lie in.
            lowest = int(places.min())
            window = self._table.slice(lowest, int(places.max()) - lowest + 1)
            for values in window.take(places - lowest).to_pylist():
                yield self._judged(values)

    @staticmethod
    def _judged(values: dict[str, Any]) -> Judged:
        return Judged(slices=json.loads(values.pop("slices")), fields=json.loads(values.pop("fields")), **values)


def write_judged(path: Path, rows: Iterable[tuple[Judged, Sequence[Part]]]) -> None:
    """Write rows with their parts by round."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        waiting: list[dict[str, Any]] = []
        for judged, parts in rows:
            waiting.append(
                {
                    "row": judged.row,
                    "prompt": judged.prompt,
                    "first": judged.first,
                    "second": judged.second,
                    "p_first": judged.p_first,
                    "tie": judged.tie,
                    "weight": judged.weight,
                    "dimension": judged.dimension,
                    "group": judged.group,
                    "slices": json.dumps(judged.slices, sort_keys=True),
                    "fields": json.dumps(judged.fields),
                    "parts": [int(part) for part in parts],
                }
            )
            if len(waiting) >= _BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=SCHEMA))
                waiting = []
        if waiting:
            writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=SCHEMA))


def read_judged(path: Path) -> tuple[pa.Table, NDArray[np.int8]]:
    """The rows without their parts, memory-mapped, and the parts: [rows, rounds]."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    parts = np.array(table["parts"].to_pylist(), dtype=np.int8)
    return table.drop_columns(["parts"]), parts


class TextWriter:
    """Stages the texts of rows, so that a data set may be larger than memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, _STAGED)
        self._waiting: list[dict[str, Any]] = []
        self._places: dict[int, int] = {}

    def add(self, texts: Texts) -> None:
        """Stage one row."""
        self._places[texts.row] = len(self._places)
        fields = json.dumps(texts.fields)
        self._waiting.append({"prompt": texts.prompt, "responses": list(texts.responses), "fields": fields})
        if len(self._waiting) >= _BATCH:
            self._flush()

    def finish(self) -> "StagedTexts":
        """Close the file and open it for reading."""
        self._flush()
        self._writer.close()
        self._file.close()
        return StagedTexts(self._path, self._places)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, schema=_STAGED))
            self._waiting = []


class StagedTexts:
    """Texts by row number."""

    def __init__(self, path: Path, places: dict[int, int]) -> None:
        with pa.memory_map(str(path)) as source:
            self._table = pa.ipc.open_file(source).read_all()
        self._places = places

    def prompt(self, row: int) -> str:
        """The prompt of a row."""
        return str(self._table["prompt"][self._places[row]].as_py())

    def fields(self, row: int) -> dict[str, Any]:
        """What graders see of a row."""
        found: dict[str, Any] = json.loads(self._table["fields"][self._places[row]].as_py())
        return found

    def response(self, row: int, at: int) -> str:
        """One response of a row."""
        return str(self._table["responses"][self._places[row]][at].as_py())

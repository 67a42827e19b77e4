"""Reading rows (JSONL, JSON, Parquet) from files that others wrote: confined paths, bounded sizes, nothing trusted."""

import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_operator.api.plan import CLAIMS_PATH, CONFIG_MAPS_PATH, STORAGE_PATH
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import digest_bytes, digest_file

from .reasons import DropReason

ROW_BYTES = 2 * 1024 * 1024
JSON_BYTES = 256 * 1024 * 1024
ROW_GROUP_BYTES = 1024 * 1024 * 1024
_FILES = 10_000
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_PARQUET_BATCH = 64
_DEPTH = 32
_SKIP_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as it was found: an object, or why it is none."""

    number: int
    value: dict[str, Any] | None
    problem: DropReason | None = None
    detail: str = ""


class Source:
    """The files of one data set, in reading order (by name)."""

    def __init__(self, path: str, ref: str) -> None:
        """Find the files. Raises ConfigError for what is not there, leads out of its volume, or is no regular file."""
        self._ref = ref
        self._files = [(file, _identity(file)) for file in _files(Path(path), ref)]

    def digest(self) -> str:
        """The content's digest: of one file its SHA-256, of several that of their digests in reading order."""
        digests = [digest_file(file) for file, _ in self._files]
        return digests[0] if len(digests) == 1 else digest_bytes("\n".join(digests).encode())

    def rows(self) -> Iterator[SourceRow]:
        """Yield every row, numbered from 1 over all files. Raises ConfigError when a file changes meanwhile."""
        number = 0
        for file, identity in self._files:
            for value in _read(file, self._ref):
                number += 1
                if isinstance(value, dict):
                    yield SourceRow(number, value)
                else:
                    yield SourceRow(number, None, *value)
            if _identity(file) != identity:
                raise ConfigError(f"{self._ref}: {file.name} changed while it was read; run again when it is complete")


Problem = tuple[DropReason, str]


def _files(path: Path, ref: str) -> list[Path]:
    real = confined(path, ref)
    if not real.exists():
        raise ConfigError(f"{ref} is not there: nothing lies at {path}; mend the path or put the data in place")
    if not real.is_dir():
        return [_regular(real, ref)]
    found = sorted(entry for entry in real.iterdir() if entry.suffix in SUFFIXES and not entry.name.startswith("."))
    if not found:
        raise ConfigError(f"{ref} is a folder without data: it must hold files named {', '.join(SUFFIXES)}")
    if len(found) > _FILES:
        raise ConfigError(f"{ref} holds {len(found)} files, more than {_FILES}: merge them")
    root = real.resolve()
    for entry in found:
        if not entry.resolve().is_relative_to(root):
            raise ConfigError(f"{ref}: {entry.name} leads out of its folder")
    return [_regular(entry, ref) for entry in found]


def confined(path: Path, ref: str) -> Path:
    """The path, once it is certain that it stays inside the volume it names, symbolic links followed."""
    if ".." in path.parts:
        raise ConfigError(f"{ref}: the path {path} goes upwards ('..')")
    root, real = volume_root(path).resolve(), path.resolve()
    if not real.is_relative_to(root):
        raise ConfigError(f"{ref}: {path} leads out of its volume {root}; links to other places are not followed")
    return path


def volume_root(path: Path) -> Path:
    """The mount that a path of the plan lies in; outside the pod's mounts, the folder it lies in."""
    for mounts in (Path(CLAIMS_PATH), Path(CONFIG_MAPS_PATH)):
        if path.is_relative_to(mounts) and path != mounts:
            return mounts / path.relative_to(mounts).parts[0]
    if path.is_relative_to(STORAGE_PATH):
        return Path(STORAGE_PATH)
    return path.parent


def _regular(path: Path, ref: str) -> Path:
    # Opening a pipe or a device would wait for ever, or read one.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConfigError(f"{ref}: {path.name} is not a regular file")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{ref}: {path} can't be read by user {os.getuid()}: mend its permissions")
    return path


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path, ref: str) -> Iterator[dict[str, Any] | Problem]:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PAR1"):
        return _parquet(path, ref)
    if path.suffix != ".jsonl" and start.lstrip().startswith(b"["):
        return _json_array(path, ref)
    return _json_lines(path)


def _json_lines(path: Path) -> Iterator[dict[str, Any] | Problem]:
    with path.open("rb") as file:
        while line := file.readline(ROW_BYTES + 1):
            if len(line) > ROW_BYTES and not line.endswith(b"\n"):
                yield DropReason.ROW_TOO_LARGE, f"more than {ROW_BYTES} bytes, beginning with {line[:60]!r}"
                _skip_line(file)
            elif line.strip():
                yield _parse(line)


def _skip_line(file: BinaryIO) -> None:
    while (block := file.readline(_SKIP_BLOCK)) and not block.endswith(b"\n"):
        pass


def _parse(line: bytes) -> dict[str, Any] | Problem:
    try:
        value = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return DropReason.NOT_JSON, str(error) or type(error).__name__
    return value if isinstance(value, dict) else (DropReason.NOT_JSON, f"a {type(value).__name__}, not an object")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _json_array(path: Path, ref: str) -> Iterator[dict[str, Any] | Problem]:
    if path.stat().st_size > JSON_BYTES:
        raise ConfigError(f"{ref}: {path.name} is one JSON document of more than {JSON_BYTES} bytes: write JSON lines")
    try:
        values = json.loads(path.read_bytes(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{ref}: {path.name} is not JSON: {error}") from error
    for value in values:
        if not isinstance(value, dict):
            yield DropReason.NOT_JSON, f"a {type(value).__name__}, not an object"
        else:
            yield _bounded(value)


def _parquet(path: Path, ref: str) -> Iterator[dict[str, Any] | Problem]:
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if file.metadata.row_group(group).total_byte_size > ROW_GROUP_BYTES:
                    raise ConfigError(f"{ref}: row group {group} of {path.name} is larger than {ROW_GROUP_BYTES} bytes")
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for value in batch.to_pylist():
                    yield _bounded(plain(value))
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"{ref}: {path.name} is not a readable Parquet file: {error}") from error


def _bounded(value: dict[str, Any]) -> dict[str, Any] | Problem:
    size = len(json.dumps(value))
    return value if size <= ROW_BYTES else (DropReason.ROW_TOO_LARGE, f"{size} bytes, more than {ROW_BYTES}")


def plain(value: Any, depth: int = 0) -> Any:
    """The JSON form of a Parquet value: what JSON has no form for becomes text, bytes and NaN become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes) or depth >= _DEPTH:
        return None
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    return str(value)

import contextlib
import hashlib
import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_trainer.data import sources
from rlhf_trainer.data.sources import ROW_BYTES, Source, SourceRow
from rlhf_trainer.errors import ConfigError
from smalldata import write_lines


def rows_of(path: Path) -> list[SourceRow]:
    return list(Source(str(path), "pvc://data/x").rows())


def test_the_three_formats_hold_the_same_rows(tmp_path: Path) -> None:
    values = [{"prompt": "a", "n": 1}, {"prompt": "b\nc", "n": None}]
    write_lines(tmp_path / "x.jsonl", *values)
    (tmp_path / "x.json").write_text(json.dumps(values))
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.json", "x.parquet"):
        assert [row.value for row in rows_of(tmp_path / name)] == values


def test_a_file_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('[{"prompt": "a"}]')
    assert [row.value for row in rows_of(tmp_path / "rows")] == [{"prompt": "a"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": ', "NotJSON"),
        (b'{"prompt": NaN}', "NotJSON"),
        (b'{"prompt": -Infinity}', "NotJSON"),
        (b'"text"', "NotJSON"),
        (b"[1]", "NotJSON"),
        (b"\xff\xfe{}", "NotJSON"),
        (b"[" * 100_000, "NotJSON"),
        (b'{"prompt": ' + b"9" * 5_000 + b"}", "NotJSON"),
        (b'{"prompt": "' + b"x" * (10 << 20) + b'"}', "RowTooLarge"),
    ],
)
def test_a_bad_line_is_counted_and_the_next_one_read(tmp_path: Path, line: bytes, reason: str) -> None:
    found = rows_of(write_lines(tmp_path / "x.jsonl", {"prompt": "a"}, line, {"prompt": "b"}))
    assert [row.number for row in found] == [1, 2, 3]
    assert (found[1].value, found[1].problem) == (None, reason)
    assert len(found[1].detail) < 1_000
    assert [found[0].value, found[2].value] == [{"prompt": "a"}, {"prompt": "b"}]


def test_a_row_just_within_the_bound_is_read_and_the_last_line_needs_no_end(tmp_path: Path) -> None:
    row = {"prompt": "x" * (ROW_BYTES - 20)}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row) + "\n\n" + json.dumps({"prompt": "b"}))
    assert [found.value for found in rows_of(path)] == [row, {"prompt": "b"}]


def test_a_huge_row_is_never_held_whole(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", b'{"prompt": "' + b"x" * (24 << 20) + b'"}')
    tracemalloc.start()
    try:
        assert [row.problem for row in rows_of(path)] == ["RowTooLarge"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


def test_parquet_values_without_a_json_form_are_made_harmless(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a"], "score": [math.nan], "blob": [b"\x00"], "nested": [{"x": [1.5, math.inf]}]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet")[0].value == {
        "prompt": "a", "score": None, "blob": None, "nested": {"x": [1.5, None]}
    }  # fmt: skip


def test_a_row_of_parquet_that_is_too_large_is_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", "x" * (10 << 20)]}), tmp_path / "x.parquet")
    assert [row.problem for row in rows_of(tmp_path / "x.parquet")] == [None, "RowTooLarge"]


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + b"\x00" * 64 + b"PAR1", b"PAR1" + b"\xff" * 1000 + b"PAR1"])
def test_a_broken_parquet_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.parquet is not a readable Parquet file"):
        rows_of(tmp_path / "x.parquet")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(4, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_to_a_parquet_file_is_anything_but_rows_or_a_config_error(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": [f"question {at}" for at in range(200)], "n": list(range(200))}), path)
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[4 + at % (len(data) - 4)] = value
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        assert all(row.value is not None or row.problem for row in rows_of(path))


def test_text_that_is_not_utf8_makes_a_parquet_file_unreadable(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe"], type=pa.binary())
    text = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"prompt": text}), tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        rows_of(tmp_path / "x.parquet")


def test_a_folder_is_read_by_name_and_its_digest_knows_no_names(tmp_path: Path) -> None:
    for folder, names in (("one", ("a.jsonl", "b.jsonl")), ("two", ("x.jsonl", "y.jsonl")), ("three", ("b", "a"))):
        (tmp_path / folder).mkdir()
        for name, prompt in zip(names, ("first", "second"), strict=True):
            write_lines(tmp_path / folder / f"{name.removesuffix('.jsonl')}.jsonl", {"prompt": prompt})
    digests = [Source(str(tmp_path / folder), "r").digest() for folder in ("one", "two", "three")]
    assert digests[0] == digests[1] != digests[2], "the same content in the same order, then in another"
    assert [row.number for row in rows_of(tmp_path / "one")] == [1, 2]


def test_a_files_digest_is_what_sha256sum_says(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"prompt": "a"})
    assert Source(str(path), "r").digest() == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "CLAIMS_PATH", str(tmp_path / "claims"))
    monkeypatch.setattr(sources, "CONFIG_MAPS_PATH", str(tmp_path / "configmaps"))
    (tmp_path / "claims/data/sub").mkdir(parents=True)
    (tmp_path / "claims/secret").mkdir()
    write_lines(tmp_path / "claims/secret/x.jsonl", {"prompt": "secret"})
    return tmp_path


def test_links_inside_a_volume_are_followed(mounts: Path) -> None:
    # A ConfigMap volume is made of them.
    real = mounts / "configmaps/prompts/..2026_01_01"
    real.mkdir(parents=True)
    write_lines(real / "x.jsonl", {"prompt": "a"})
    (mounts / "configmaps/prompts/..data").symlink_to("..2026_01_01")
    (mounts / "configmaps/prompts/x.jsonl").symlink_to("..data/x.jsonl")
    assert len(rows_of(mounts / "configmaps/prompts/x.jsonl")) == 1


@pytest.mark.parametrize("how", ["file", "folder", "entry"])
def test_links_out_of_a_volume_are_refused(mounts: Path, how: str) -> None:
    data, secret = mounts / "claims/data", mounts / "claims/secret"
    if how == "file":
        path = data / "x.jsonl"
        path.symlink_to(secret / "x.jsonl")
    elif how == "folder":
        (data / "link").symlink_to(secret)
        path = data / "link/x.jsonl"
    else:
        path = data / "sub"
        (path / "x.jsonl").symlink_to(secret / "x.jsonl")
    with pytest.raises(ConfigError, match="leads out of"):
        rows_of(path)


def test_a_path_never_goes_upwards(mounts: Path) -> None:
    with pytest.raises(ConfigError, match="goes upwards"):
        rows_of(mounts / "claims/data/../secret/x.jsonl")


def test_what_is_not_there_is_named_with_its_reference(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pvc://data/x is not there"):
        rows_of(tmp_path / "x.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="a folder without data"):
        rows_of(tmp_path / "empty")


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(ConfigError, match="not a regular file"):
        rows_of(tmp_path / "x.jsonl")


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", *[{"prompt": "a" * 1000}] * 100)
    found: Any = Source(str(path), "r").rows()
    next(found)
    write_lines(path, {"prompt": "b"})
    with pytest.raises(ConfigError, match="changed while it was read"):
        list(found)

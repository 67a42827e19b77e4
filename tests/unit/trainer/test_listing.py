"""Which files of a place outside are taken: a name that could lead out of its folder never is."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.plan import SourceContent
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.remote.listing import MAX_BYTES, MAX_FILES, Entry, chosen
from rlhf_trainer.remote.trouble import Place

PLACE = Place("dataset", "s3://bucket/rows", None, ("accessKeyID", "secretAccessKey"))

PARTS = st.one_of(st.sampled_from(["", ".", "..", "a", "b.jsonl", "c\\d", "e\x00", "f\n"]), st.text(max_size=6))


def names(content: SourceContent, *listed: str) -> list[str]:
    return [entry.name for entry in chosen(PLACE, content, [Entry(name, 1) for name in listed])]


@given(st.lists(PARTS, min_size=1, max_size=5).map("/".join))
def test_whatever_is_listed_stays_below_its_folder(name: str) -> None:
    try:
        taken = names(SourceContent.ARTIFACT, name)
    except ConfigError:
        return
    path = os.path.normpath(os.path.join("/root/folder", *taken))
    assert path == f"/root/folder/{name}"


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (SourceContent.DATA, ["a.jsonl", "c.json", "d.parquet"]),
        (SourceContent.MODEL, ["c.json", "e.safetensors", "vocab.txt"]),
        (SourceContent.ARTIFACT, ["a.jsonl", "b.py", "c.json", "consolidated.safetensors", "d.parquet"]),
    ],
)
def test_each_kind_takes_its_own_files(content: SourceContent, taken: list[str]) -> None:
    listed = ["d.parquet", "a.jsonl", "b.py", "c.json", "e.safetensors", "vocab.txt", "f.bin", "deeper/g.jsonl"]
    found = names(content, *listed, "consolidated.safetensors", ".hidden.json")
    assert found == taken if content is not SourceContent.ARTIFACT else set(taken) < set(found)


def test_too_many_files_and_too_many_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"more than {MAX_FILES} files"):
        chosen(PLACE, SourceContent.DATA, [Entry(f"{at}.jsonl", 1) for at in range(MAX_FILES + 1)])
    with pytest.raises(ConfigError, match="bytes, more than") as caught:
        chosen(PLACE, SourceContent.DATA, [Entry("a.jsonl", MAX_BYTES), Entry("b.jsonl", 1)])
    assert caught.value.reason == "SourceTooLarge"

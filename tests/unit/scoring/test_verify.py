"""Holding files against a digest: what is told, and by which exit code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlhf_operator.api.exitcodes import VERIFY_MISMATCH, VERIFY_NOT_SERVABLE, VERIFY_UNREADABLE
from rlhf_scoring.tree import digest_tree
from rlhf_scoring.verify import TERMINATION_LOG, main

OTHER = "sha256:" + "0" * 64


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(TERMINATION_LOG, str(tmp_path / "said"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def run(folder: Path, digest: str) -> tuple[int, str]:
    said = folder.parent / "said"
    code = main(["--artifact", str(folder), "--digest", digest])
    return code, said.read_text() if said.exists() else ""


def test_the_files_of_the_digest_pass(model: Path) -> None:
    assert run(model, digest_tree(model)) == (0, "")


def test_other_files_are_told_with_both_digests(model: Path) -> None:
    code, said = run(model, OTHER)
    assert code == VERIFY_MISMATCH
    assert OTHER in said
    assert digest_tree(model) in said


def test_a_byte_that_changed_is_found(model: Path) -> None:
    digest = digest_tree(model)
    (model / "config.json").write_text("{ }")
    assert run(model, digest)[0] == VERIFY_MISMATCH


def test_a_folder_that_is_not_there_is_no_mismatch(model: Path) -> None:
    code = main(["--artifact", str(model / "nowhere"), "--digest", OTHER])
    assert code == VERIFY_UNREADABLE


def test_a_link_is_refused(model: Path) -> None:
    (model / "weights").symlink_to("/etc/hostname")
    assert run(model, digest_tree(model))[0] == VERIFY_UNREADABLE


@pytest.mark.parametrize("cached", [False, True])
def test_an_adapter_is_told_by_name_with_what_to_do(model: Path, tmp_path: Path, cached: bool) -> None:
    (model / "adapter_config.json").write_text("{}")
    command = ["--artifact", str(model), "--digest", digest_tree(model)]
    command += ["--cache", str(tmp_path / "cache")] if cached else []
    # The second time with a cache, the files stand there already.
    assert [main(command), main(command)] == [VERIFY_NOT_SERVABLE] * 2
    said = (tmp_path / "said").read_text()
    assert "LoRA adapter" in said
    assert "lora.output: Merged" in said


def test_an_adapter_with_other_files_than_the_digests_is_a_mismatch(model: Path) -> None:
    (model / "adapter_config.json").write_text("{}")
    assert run(model, OTHER)[0] == VERIFY_MISMATCH


def test_a_manifest_that_is_none_is_told(model: Path) -> None:
    (model / "manifest.json").write_text("{}")
    code, said = run(model, OTHER)
    assert code == VERIFY_UNREADABLE
    assert "manifest" in said


def test_a_cache_keeps_a_verified_copy_that_is_not_read_again(model: Path, tmp_path: Path) -> None:
    cache, digest = tmp_path / "cache", digest_tree(model)
    command = ["--artifact", str(model), "--digest", digest, "--cache", str(cache)]
    assert main(command) == 0
    assert [each.name for each in cache.iterdir()] == [digest.replace(":", "-")]
    (model / "config.json").unlink()
    assert main(command) == 0, "the volume of the artifact is not needed any more"


def test_a_cache_holds_nothing_that_is_not_what_its_name_says(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert main(["--artifact", str(model), "--digest", OTHER, "--cache", str(cache)]) == VERIFY_MISMATCH
    assert list(cache.iterdir()) == []


def test_what_a_killed_pod_left_in_a_cache_is_swept_when_it_is_old(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    old, new = cache / ".copying-a-1", cache / ".copying-b-1"
    for each in (old, new):
        each.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert main(["--artifact", str(model), "--digest", digest_tree(model), "--cache", str(cache)]) == 0
    assert (old.exists(), new.exists()) == (False, True)

"""Fencing, checkpoints and the journal on real folders."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from rlhf_trainer.checkpoint import COMPLETE_FILE, Checkpoint, CheckpointStore
from rlhf_trainer.distributed import Group
from rlhf_trainer.errors import ConfigError, Superseded
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.files import write_durably
from rlhf_trainer.journal import Journal, Key, text_hash

PLAN = "sha256:" + "a" * 64
ALONE = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


def workspace(root: Path, attempt: int = 1) -> Workspace:
    found = Workspace(root / "job-1", attempt)
    found.claim()
    return found


def store(owner: Workspace, keep: int = 2, plan: str = PLAN, world: int = 1) -> CheckpointStore:
    group = Group(rank=0, world_size=world, local_rank=0, device=torch.device("cpu"))
    return CheckpointStore(owner, group, plan, "step", keep)


def save(checkpoints: CheckpointStore, step: int, content: str = "weights") -> Checkpoint:
    def write(folder: Path) -> None:
        (folder / "engine").mkdir()
        (folder / "engine" / "policy.pt").write_text(f"{content} {step}")

    return checkpoints.save(step, write)


def test_a_newer_attempt_takes_the_workspace_and_the_older_one_notices(tmp_path: Path) -> None:
    first = workspace(tmp_path, 1)
    workspace(tmp_path, 2)
    with pytest.raises(Superseded, match="attempt 2 owns"):
        first.check()
    with pytest.raises(Superseded):
        first.publish("result.json", b"{}")
    assert not (first.root / "result.json").exists()
    with pytest.raises(Superseded):
        workspace(tmp_path, 1)


def test_an_old_attempt_that_writes_its_number_last_still_owns_nothing(tmp_path: Path) -> None:
    first = workspace(tmp_path, 1)
    workspace(tmp_path, 2)
    (first.root / "ATTEMPT").write_text("1\n")
    with pytest.raises(Superseded):
        first.check()


def test_a_superseded_attempt_completes_no_checkpoint(tmp_path: Path) -> None:
    first = workspace(tmp_path, 1)
    old = store(first)

    def write(folder: Path) -> None:
        (folder / "policy.pt").write_text("late")
        workspace(tmp_path, 2)

    with pytest.raises(Superseded):
        old.save(5, write)
    assert store(Workspace(first.root, 2)).complete() == []


def test_a_rank_with_another_storage_is_told_so_although_it_has_a_folder_of_the_same_name(tmp_path: Path) -> None:
    main, same, other = (Workspace(tmp_path / claim / "job-1", 1) for claim in ("a", "a", "b"))
    for one in (main, same, other):
        one.root.parent.mkdir(exist_ok=True)
        one.open()
    nonce = main.claim()
    same.see_claim(nonce, rank=1)
    with pytest.raises(ConfigError, match="rank 2 does not find") as caught:
        other.see_claim(nonce, rank=2, seconds=0)
    assert caught.value.reason == "StorageNotShared"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EROFS, ConfigError), (errno.EACCES, ConfigError), (errno.ESTALE, OSError)]
)
def test_storage_that_fails_for_now_is_no_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    owner = workspace(tmp_path)
    checkpoints = store(owner)
    save(checkpoints, 5)

    def fail(*arguments: object, **options: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(kind):
        owner.open()
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(kind):
        checkpoints.complete()


def test_two_pods_that_write_the_same_name_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "same"
    write_durably(path, b"outer", before_rename=lambda: write_durably(path, b"inner"))
    assert path.read_bytes() == b"outer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_refused_before_its_rename_leaves_nothing_behind(tmp_path: Path) -> None:
    first = workspace(tmp_path, 1)
    workspace(tmp_path, 2)
    with pytest.raises(Superseded):
        write_durably(first.root / "scorers.json", b"{}", first.check)
    assert [path.name for path in first.root.iterdir() if "scorers" in path.name] == []


def test_the_base_model_of_the_first_attempt_is_that_of_all(tmp_path: Path) -> None:
    workspace(tmp_path, 1).pin_base_model("sha256:one", "pvc://models/base")
    second = workspace(tmp_path, 2)
    second.pin_base_model("sha256:one", "pvc://models/base")
    with pytest.raises(ConfigError, match="sha256:two, but had sha256:one") as caught:
        second.pin_base_model("sha256:two", "pvc://models/base")
    assert caught.value.reason == "BaseModelChanged"


def test_the_newest_are_kept_and_the_rest_removed(tmp_path: Path) -> None:
    owner = workspace(tmp_path)
    checkpoints = store(owner, keep=2)
    for step in (5, 10, 15):
        save(checkpoints, step)
    assert [found.step for found in checkpoints.complete()] == [10, 15]
    assert not (owner.own / "checkpoints" / "step-00000005").exists()


def test_what_is_not_complete_is_ignored_and_later_removed(tmp_path: Path) -> None:
    checkpoints = store(workspace(tmp_path))
    save(checkpoints, 5)
    half = save(checkpoints, 10).path
    (half / COMPLETE_FILE).unlink()
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 5
    save(checkpoints, 15)
    assert not half.exists()


def test_another_plans_checkpoints_are_not_resumed(tmp_path: Path) -> None:
    owner = workspace(tmp_path)
    save(store(owner, plan="sha256:" + "b" * 64), 5)
    assert store(owner).newest() is None


def test_a_later_attempt_resumes_an_earlier_ones_checkpoint(tmp_path: Path) -> None:
    save(store(workspace(tmp_path, 1)), 5)
    newest = store(workspace(tmp_path, 2)).newest(minimum_step=5)
    assert newest is not None
    assert newest.path.parts[-3] == "1"


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    checkpoints = store(workspace(tmp_path))
    file = save(checkpoints, 5).path / "engine" / "policy.pt"
    if damage == "changed":
        file.write_text("weightS 5")
    elif damage == "cut":
        file.write_text("w")
    else:
        file.unlink()
    with pytest.raises(ConfigError, match=r"engine/policy\.pt"):
        checkpoints.newest()


def test_another_world_size_is_refused_with_both_numbers_and_the_way_out(tmp_path: Path) -> None:
    owner = workspace(tmp_path)
    save(store(owner), 5)
    folder = next((owner.own / "checkpoints").iterdir())
    complete = json.loads((folder / COMPLETE_FILE).read_text())
    (folder / COMPLETE_FILE).write_text(json.dumps({**complete, "worldSize": 4}))
    with pytest.raises(ConfigError, match="written by 4 ranks and this attempt has 1") as caught:
        store(owner).newest()
    assert "parentArtifact" in caught.value.message
    assert "pvc://<this job's storage claim>/job-1/attempts/1/checkpoints/step-00000005/policy" in caught.value.message


def test_a_lost_checkpoint_is_not_silently_retrained(tmp_path: Path) -> None:
    checkpoints = store(workspace(tmp_path))
    save(checkpoints, 5)
    with pytest.raises(ConfigError, match="step 10 or later, but the newest complete checkpoint is of step 5"):
        checkpoints.newest(minimum_step=10)


def test_the_journal_gives_back_scores_and_missing_ones_of_later_steps_only(tmp_path: Path) -> None:
    journal = Journal(workspace(tmp_path, 1))
    early, late, missing = (Key(step, PLAN, row, text_hash("p", str(row))) for step, row in ((4, 1), (5, 2), (5, 3)))
    journal.write(4, [(early, 0.1)])
    journal.write(5, [(late, 1 / 3), (missing, None)])
    again = Journal(workspace(tmp_path, 2))
    again.know(again.read(after_step=4))
    assert again.look_up(early) == (False, None)
    assert again.look_up(late) == (True, 1 / 3)
    assert again.look_up(missing) == (True, None)
    again.forget(up_to_step=5)
    assert again.read(after_step=0) == {}


def test_a_row_that_comes_again_keeps_the_score_of_each_step(tmp_path: Path) -> None:
    journal = Journal(workspace(tmp_path))
    first, again = (Key(step, PLAN, 1, text_hash("p", "same")) for step in (1, 2))
    journal.write(1, [(first, 0.25)])
    journal.write(2, [(again, 0.75)])
    journal.know(journal.read(after_step=None))
    assert journal.look_up(first) == (True, 0.25)
    assert journal.look_up(again) == (True, 0.75)


def test_scores_of_reference_samples_are_given_back_only_where_nothing_was_resumed(tmp_path: Path) -> None:
    journal = Journal(workspace(tmp_path))
    reference = Key(0, PLAN, 1, text_hash("p", "r"))
    journal.write(0, [(reference, 0.5)])
    assert journal.read(after_step=None) == {reference: 0.5}
    assert journal.read(after_step=1) == {}


def test_prompt_and_response_are_hashed_apart() -> None:
    assert text_hash("ab", "c") != text_hash("a", "bc")

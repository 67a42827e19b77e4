"""Models and data from a hub, over real HTTP through the hub's own library."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remotekit.hub import LARGE, Hub, Repo, Request
from rlhf_operator.api.plan import TrainingPlan
from rlhf_trainer.data.sources import Source
from rlhf_trainer.errors import ConfigError, Crash, Superseded, TrainerError
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.files import digest_bytes, digest_tree
from rlhf_trainer.remote.fetch import fetch_all
from rlhf_trainer.remote.fetched import note_of, resolved_inputs

LINES = b'{"prompt": "one"}\n{"prompt": "two"}\n'
WEIGHTS = b"\x01" * (2 * LARGE)
MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"import os",
    "README.md": b"# words",
    "onnx/config.json": b"{}",
}

MakePlan = Callable[..., TrainingPlan]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", 1)


def data_of(repo: str = "org/rows", **more: Any) -> dict[str, Any]:
    return {"content": "Data", "hf": {"repo": repo, **more}}


def model_of(repo: str = "org/base", **more: Any) -> dict[str, Any]:
    return {"content": "Model", "hf": {"repo": repo, **more}}


def content(plan: TrainingPlan) -> Path:
    return Path(plan.dataset.path)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def parquet(*prompts: str) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"prompt": list(prompts)}), target)
    return target.getvalue()


def test_a_file_of_a_data_set_is_fetched_with_its_commit_and_digest(
    hub: Hub, plan: MakePlan, workspace: Workspace
) -> None:
    hub.datasets["org/rows"] = Repo()
    commit = hub.datasets["org/rows"].commit({"data/train.jsonl": LINES, "data/test.jsonl": b"{}\n"})
    wanted = plan(data_of(path="data/train.jsonl"))
    fetch_all(wanted, workspace)
    assert names(content(wanted)) == ["train.jsonl"]
    assert [row.value for row in Source(wanted.dataset.path, "x").rows()] == [{"prompt": "one"}, {"prompt": "two"}]
    [resolved] = resolved_inputs(wanted)
    assert (resolved.field, resolved.revision, resolved.digest) == ("dataset", commit, digest_bytes(LINES))


def test_parquet_rows_of_a_folder_are_read_and_deeper_ones_are_not(
    hub: Hub, plan: MakePlan, workspace: Workspace
) -> None:
    hub.datasets["org/rows"] = Repo()
    hub.datasets["org/rows"].commit(
        {"data/b.parquet": parquet("three"), "data/a.parquet": parquet("one", "two"), "data/old/c.parquet": b"x"}
    )
    wanted = plan(data_of(path="data"))
    fetch_all(wanted, workspace)
    assert names(content(wanted)) == ["a.parquet", "b.parquet"]
    found = [row.value["prompt"] for row in Source(wanted.dataset.path, "x").rows() if row.value is not None]
    assert found == ["one", "two", "three"]


def test_of_a_model_only_weights_without_code_and_what_belongs_to_them_are_fetched(
    hub: Hub, plan: MakePlan, workspace: Workspace
) -> None:
    hub.models["org/base"] = Repo()
    hub.models["org/base"].commit(MODEL)
    wanted = plan(model_of())
    fetch_all(wanted, workspace)
    assert names(content(wanted)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (content(wanted) / "model.safetensors").read_bytes() == WEIGHTS
    assert resolved_inputs(wanted)[0].digest == digest_tree(content(wanted))


def test_a_branch_that_moves_changes_nothing_once_it_was_resolved(
    hub: Hub, plan: MakePlan, workspace: Workspace
) -> None:
    repo = hub.datasets["org/rows"] = Repo()
    first = repo.commit({"train.jsonl": LINES})
    wanted = plan(data_of(path="train.jsonl"))
    hub.fail(10, 500, "/resolve/")
    with pytest.raises(Crash, match="500"):
        fetch_all(wanted, workspace)
    assert note_of(wanted.dataset) is None
    hub.faults.clear()
    repo.commit({"train.jsonl": b'{"prompt": "another"}\n'})
    fetch_all(wanted, Workspace(workspace.root, 2))
    assert resolved_inputs(wanted)[0].revision == first
    assert (content(wanted) / "train.jsonl").read_bytes() == LINES


def test_what_is_there_is_not_asked_for_again(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.datasets["org/rows"] = Repo()
    hub.datasets["org/rows"].commit({"train.jsonl": LINES})
    wanted = plan(data_of(path="train.jsonl"))
    fetch_all(wanted, workspace)
    asked = len(hub.requests)
    fetch_all(wanted, Workspace(workspace.root, 2))
    assert len(hub.requests) == asked


def test_errors_that_pass_are_waited_out(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.models["org/base"] = Repo()
    hub.models["org/base"].commit(MODEL)
    hub.fail(1, 503, "/revision/")
    hub.fail(1, 429, "/resolve/")
    cut: list[str] = []

    def cut_once(request: Request, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        if "/large/" not in request.path or cut:
            return None
        cut.append(request.path)
        return 200, {"Content-Length": str(len(body))}, body[:1000]

    hub.faults.append(cut_once)
    wanted = plan(model_of())
    fetch_all(wanted, workspace)
    assert len(cut) == 1
    assert (content(wanted) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_token_opens_a_private_repository_and_goes_nowhere_else(
    hub: Hub, plan: MakePlan, workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.models["org/base"] = Repo(token="hf_very_secret")
    hub.models["org/base"].commit(MODEL)
    secret = tmp_path / "hub-token"
    secret.mkdir()
    (secret / "token").write_text("hf_very_secret\n")
    wanted = plan(model_of() | {"credentials": str(secret)})
    fetch_all(wanted, workspace)
    assert {request.authorization for request in hub.asked("/org/base/")} == {"Bearer hf_very_secret"}
    assert [request.authorization for request in hub.asked("/large/")] == [None]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent != secret)
    assert b"very_secret" not in written
    assert "very_secret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("fetch", "reason", "words"),
    [
        (data_of("org/none"), "SourceForbidden", "secretRef"),
        (data_of("org/private"), "SourceForbidden", "token"),
        (data_of(revision="gone"), "SourceNotFound", "no revision gone"),
        (data_of(path="gone.jsonl"), "SourceNotFound", "no file or folder gone.jsonl"),
        (data_of(path="pictures"), "NoRows", r"\.parquet"),
        (data_of("../rows"), "SourceUnusable", "no name of a repository"),
        (model_of("org/pickled"), "SourceUnusable", r"no \*\.safetensors.*pytorch_model\.bin"),
    ],
)
def test_what_a_person_must_mend_is_told_by_field_and_not_tried_again(
    hub: Hub, plan: MakePlan, workspace: Workspace, fetch: dict[str, Any], reason: str, words: str
) -> None:
    hub.datasets["org/rows"] = Repo()
    hub.datasets["org/rows"].commit({"train.jsonl": LINES, "pictures/a.png": b"x"})
    hub.datasets["org/private"] = Repo(token="x")
    hub.models["org/pickled"] = Repo()
    hub.models["org/pickled"].commit({"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(ConfigError, match=words) as caught:
        fetch_all(plan(fetch), workspace)
    assert caught.value.reason == reason
    assert caught.value.message.startswith("dataset: ")
    assert len(hub.requests) <= 3


def test_content_is_held_against_the_digest(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.datasets["org/rows"] = Repo()
    hub.datasets["org/rows"].commit({"train.jsonl": LINES})
    with pytest.raises(ConfigError, match=digest_bytes(LINES)) as caught:
        fetch_all(plan(data_of(path="train.jsonl"), digest=digest_bytes(b"other")), workspace)
    assert caught.value.reason == "DigestMismatch"
    right = plan(data_of(path="train.jsonl"), digest=digest_bytes(LINES))
    fetch_all(right, workspace)
    assert note_of(right.dataset) is not None


def test_a_hub_that_lies_about_a_file_is_not_believed(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.models["org/base"] = Repo()
    hub.models["org/base"].commit(MODEL)

    def other(request: Request, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        return (200, {}, b"\x02" * len(body)) if "/large/" in request.path else None

    hub.faults.append(other)
    wanted = plan(model_of())
    with pytest.raises(Crash, match="SHA-256"):
        fetch_all(wanted, workspace)
    assert names(content(wanted).parent.parent) == ["data.revision"]


@pytest.mark.parametrize("name", ["../../evil.jsonl", "/etc/evil.jsonl", "a/../../evil.jsonl", "a\\b.jsonl"])
def test_names_that_lead_out_of_the_folder_are_refused(
    hub: Hub, plan: MakePlan, workspace: Workspace, tmp_path: Path, name: str
) -> None:
    hub.datasets["org/rows"] = Repo()
    hub.datasets["org/rows"].commit({"train.jsonl": LINES})

    def listing(request: Request, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        if "/tree/" not in request.path:
            return None
        return 200, {}, json.dumps([{"type": "file", "oid": "0" * 40, "size": 2, "path": name}]).encode()

    hub.faults.append(listing)
    with pytest.raises(ConfigError, match="lead out"):
        fetch_all(plan(data_of()), workspace)
    assert not list(tmp_path.rglob("evil*"))


def test_an_answer_that_no_hub_gives_is_named(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.faults.append(lambda request, body: (200, {}, b"<html>welcome</html>"))
    with pytest.raises(ConfigError, match="not on a hub"):
        fetch_all(plan(data_of()), workspace)


def test_a_hub_that_is_gone_is_tried_again_by_the_next_attempt(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.close()
    with pytest.raises(Crash) as caught:
        fetch_all(plan(data_of()), workspace)
    assert caught.value.reason == "SourceUnreachable"


def test_an_attempt_that_was_superseded_leaves_nothing(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.datasets["org/rows"] = Repo()
    hub.datasets["org/rows"].commit({"train.jsonl": LINES})
    Workspace(workspace.root, 2).open()
    wanted = plan(data_of(path="train.jsonl"))
    with pytest.raises(Superseded):
        fetch_all(wanted, workspace)
    assert names(content(wanted).parent.parent) == []


def test_more_than_the_storage_has_room_for_is_not_begun(hub: Hub, plan: MakePlan, workspace: Workspace) -> None:
    hub.models["org/base"] = Repo()
    hub.models["org/base"].commit(MODEL)

    def huge(request: Request, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        if "/tree/" not in request.path:
            return None
        listed = json.loads(body)
        next(each for each in listed if each["path"] == "model.safetensors")["size"] = 1 << 41
        return 200, {}, json.dumps(listed).encode()

    hub.faults.append(huge)
    with pytest.raises(TrainerError, match="enlarge the claim") as caught:
        fetch_all(plan(model_of()), workspace)
    assert caught.value.reason == "StorageFull"
    assert hub.asked("/resolve/") == []

"""What is never published or believed: changed weights, links, paths elsewhere, damage."""

import json
import os
from pathlib import Path

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_scoring.artifact import MANIFEST_FILE, read_manifest, verify
from rlhf_scoring.errors import ArtifactError
from rlhf_trainer import publish
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import digest_tree

from .conftest import DIGEST, Finish


def test_weights_changed_after_training_are_not_published(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish()
    (workspace / "attempts/1/policy/model.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match="it was changed after training"):
        publish.publish(plan, workspace, output)


@pytest.mark.parametrize("kind", ["file", "folder", "fifo"])
def test_a_link_never_carries_the_key_into_an_artifact(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish, key: Path, kind: str
) -> None:
    finish()
    policy = workspace / "attempts/1/policy"
    if kind == "file":
        (policy / "readme.txt").symlink_to(key)
    elif kind == "folder":
        (policy / "more").symlink_to(key.parent)
    else:
        os.mkfifo(policy / "pipe")
    path = workspace / "result.json"
    result = json.loads(path.read_text())
    result["policyDigest"] = digest_tree(policy)
    path.write_text(json.dumps(result))
    with pytest.raises(ArtifactError, match="neither a plain file nor a folder"):
        publish.publish(plan, workspace, output, key)
    assert not output.exists() or not any(output.iterdir())


@pytest.mark.parametrize("policy", ["../../../etc", "/etc", "attempts/9/policy", "attempts/1/link"])
def test_result_json_cannot_name_a_policy_elsewhere(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish, policy: str
) -> None:
    finish()
    (workspace / "attempts/1/link").symlink_to("/etc")
    path = workspace / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"policy": policy}))
    with pytest.raises(ConfigError, match="no folder of the workspace"):
        publish.publish(plan, workspace, output)


def test_an_artifact_that_was_damaged_is_found(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish()
    record = publish.publish(plan, workspace, output).artifact
    assert record is not None
    folder = output / record.digest.replace(":", "-")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"config\.json is changed"):
        publish.publish(plan, workspace, output)
    (folder / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        verify(folder)
    (folder / "config.json").write_text("{}")
    (folder / "evil.py").write_text("")
    with pytest.raises(ArtifactError, match=r"evil\.py is not in the manifest"):
        verify(folder)
    (folder / "evil.py").unlink()
    with pytest.raises(ArtifactError, match="has digest"):
        verify(folder, DIGEST)
    (folder / MANIFEST_FILE).write_bytes((folder / MANIFEST_FILE).read_bytes() + b"\n")
    with pytest.raises(ArtifactError, match="not in canonical form"):
        read_manifest(folder)


def test_an_output_path_that_leads_out_of_its_volume_is_refused(
    plan: TrainingPlan, workspace: Path, tmp_path: Path, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish()
    monkeypatch.setattr(publish, "OUTPUT_PATH", str(tmp_path / "output"))
    (tmp_path / "output").mkdir()
    (tmp_path / "output/assistant").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out of its volume"):
        publish.publish(plan, workspace, tmp_path / "output/assistant")

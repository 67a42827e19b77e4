"""What publishing makes of a finished workspace, and what the gate keeps back."""

import hashlib
import json
import shutil
from pathlib import Path

import yaml

from rlhf_operator.api.plan import TrainingPlan
from rlhf_scoring.artifact import MANIFEST_FILE, verify
from rlhf_trainer import publish
from rlhf_trainer.files import digest_bytes
from smalldata import MakePlan, dataset, write_lines

from .conftest import DIGEST, Finish, everything


def test_an_artifact_holds_the_policy_its_manifest_and_its_lineage(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish()
    message = publish.publish(plan, workspace, output)
    record = message.artifact
    assert record is not None
    assert (message.failure, message.reason, record.gate) == (None, "Published", "Passed")
    folder = output / record.digest.replace(":", "-")
    assert record.ref == f"pvc://models/assistant/{folder.name}"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "README.md", "config.json", "model.safetensors", "extra/tokenizer.json", MANIFEST_FILE
    }  # fmt: skip
    data = (folder / MANIFEST_FILE).read_bytes()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == record.digest
    manifest = json.loads(data)
    assert [file["path"] for file in manifest["files"]] == [
        "README.md", "config.json", "extra/tokenizer.json", "model.safetensors"
    ]  # fmt: skip
    lineage = manifest["lineage"]
    assert lineage["planDigest"] == plan.digest()
    assert lineage["baseModel"] == {"digest": DIGEST, "ref": "pvc://models/base"}
    train = next(each for each in lineage["datasets"] if each["name"] == "train")
    assert train["provenance"]["sources"] == ["support-chat"]
    assert (train["rows"], train["used"], train["dropped"]) == (2, 1, {"NonStringPrompt": 1})
    assert lineage["scorers"]["yes"].startswith("sha256:")
    assert manifest["evaluation"][0]["winRate"] == 1.0
    assert json.loads((output / "aliases/v1.3.0.json").read_text()) == {"digest": record.digest, "path": folder.name}
    assert verify(folder, record.digest).lineage.job == "default/job"
    assert folder.stat().st_mode & 0o777 == 0o755, "the server's pod has another user"


def test_the_card_says_what_it_was_trained_from_on_what_and_how_it_was_judged(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish()
    record = publish.publish(plan, workspace, output).artifact
    assert record is not None
    text = (output / record.digest.replace(":", "-") / "README.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "base_model": "pvc://models/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "ppo"],
    }
    for words in (
        "1 of 2 rows used. Left out: NonStringPrompt 1. Provenance: sources support-chat",
        "Gate: **Passed**",
        "| yes",
        "| Base | 1.000 [",
        plan.digest(),
        DIGEST,
    ):
        assert words in body


def test_publishing_again_gives_the_same_digest_and_changes_nothing(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish, key: Path
) -> None:
    finish()
    first = publish.publish(plan, workspace, output, key)
    before = everything(output)
    assert publish.publish(plan, workspace, output, key) == first
    assert everything(output) == before


def test_the_digest_does_not_know_which_attempt_finished(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish()
    first = publish.publish(plan, workspace, output).artifact
    shutil.rmtree(workspace)
    finish(attempt=3)
    second = publish.publish(plan, workspace, output).artifact
    assert first is not None
    assert second is not None
    assert first.digest == second.digest


def test_a_failed_gate_publishes_nothing_and_names_the_figure(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish, key: Path
) -> None:
    finish(policy_text="no")
    message = publish.publish(plan, workspace, output, key)
    record = message.artifact
    assert record is not None
    assert (message.failure, message.reason) == (None, "GateFailed")
    assert (record.gate, record.signed, record.alias) == ("Failed", False, None)
    assert "yes over Base: win rate 0.500, lower bound" in message.message
    assert "< minWinRate 0.55 (40 prompts)" in message.message
    assert record.ref == f"workspace://{workspace.name}/attempts/1/policy"
    assert [path.name for path in output.iterdir()] == ["refused"], "no artifact, no alias"
    (word,) = (output / "refused").iterdir()
    assert word.name == f"{record.digest.replace(':', '-')}.json"
    assert digest_bytes(word.read_bytes()) == record.digest
    refused = json.loads(word.read_bytes())
    assert (refused["gate"], refused["gateMessage"]) == ("Failed", record.gate_message)
    assert len(message.evaluation) == 1
    assert publish.publish(plan, workspace, output, key).artifact == record


def test_the_gate_is_judged_by_the_rows_not_by_what_result_json_says(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish(policy_text="no")
    path = workspace / "result.json"
    result = json.loads(path.read_text())
    result["evaluation"][0] |= {"winRate": 1.0, "lower": 1.0, "upper": 1.0}
    path.write_text(json.dumps(result))
    record = publish.publish(plan, workspace, output).artifact
    assert record is not None
    assert record.gate == "Failed"


def test_a_job_without_evaluation_is_published_as_not_evaluated(
    make_plan: MakePlan, tmp_path: Path, workspace: Path, output: Path, finish: Finish
) -> None:
    plan = make_plan(dataset(write_lines(tmp_path / "t.jsonl", {"prompt": "a"})))
    finish(plan=plan)
    record = publish.publish(plan, workspace, output).artifact
    assert record is not None
    assert record.gate == "NotEvaluated"
    assert verify(output / record.digest.replace(":", "-"), record.digest)


def test_what_a_killed_publish_pod_left_is_cleared(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish()
    left = output / f".publishing-{workspace.name}-abc/artifact"
    left.mkdir(parents=True)
    record = publish.publish(plan, workspace, output).artifact
    assert record is not None
    assert sorted(path.name for path in output.iterdir()) == ["aliases", record.digest.replace(":", "-")]

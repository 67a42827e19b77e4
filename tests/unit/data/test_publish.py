import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rlhf_operator.api.exitcodes import ExitCode, FailureClass
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Result, TerminationMessage
from rlhf_scoring.scorers import build_scorers
from rlhf_trainer import collect, evaluate, publish
from rlhf_trainer.artifact import MANIFEST_FILE, read_manifest, verify
from rlhf_trainer.data import EVALUATION, prepare_all
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import digest_tree
from rlhf_trainer.signature import signed_by

from .conftest import MakePlan, dataset, evaluation, words, write_lines

DIGEST = "sha256:" + "1" * 64
Finish = Callable[..., None]


@pytest.fixture
def plan(make_plan: MakePlan, tmp_path: Path) -> TrainingPlan:
    train = write_lines(tmp_path / "t.jsonl", {"prompt": "train on this"}, {"prompt": 1})
    held_out = write_lines(tmp_path / "e.jsonl", *[{"prompt": f"question {at}"} for at in range(40)])
    return make_plan(
        dataset(train, provenance={"sources": ["support-chat"], "consent": "OptIn"}),
        evaluation=evaluation(held_out, scorers=["yes"], minWinRate=0.55),
        scorers=[{"name": "yes", "grader": {"regex": {"pattern": "yes"}}}],
        output={"claim": "models", "path": "assistant", "alias": "v1.3.0"},
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "storage/job-0123456789ab"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output/assistant"


@pytest.fixture
def finish(plan: TrainingPlan, workspace: Path) -> Finish:
    """Leave a workspace as training leaves it."""

    def make(policy_text: str = "yes", attempt: int = 1, plan: TrainingPlan = plan) -> None:
        sets = prepare_all(plan, workspace, words)
        policy = workspace / f"attempts/{attempt}/policy"
        (policy / "extra").mkdir(parents=True, exist_ok=True)
        (policy / "config.json").write_text("{}")
        (policy / "model.safetensors").write_bytes(b"weights" * 1000)
        (policy / "extra/tokenizer.json").write_text("[]")
        with build_scorers(plan.scorers) as scorers:
            evaluate.record_scorers(workspace, scorers)
            if plan.evaluation is not None:
                for subject, text in (("Base", "no"), ("Policy", policy_text)):
                    evaluate.measure(
                        subject,
                        sets[EVALUATION],
                        lambda rows, seeds, text=text: [text] * len(rows),
                        scorers,
                        plan=plan,
                        workspace=workspace,
                    )
        result = Result(
            plan_digest=plan.digest(),
            attempt=attempt,
            step=2,
            finished_at=datetime.now(UTC),
            policy=f"attempts/{attempt}/policy",
            policy_digest=digest_tree(policy),
            base_model_digest=DIGEST,
            datasets=[prepared.record for prepared in sets.values()],
            evaluation=evaluate.comparisons(plan, workspace),
            world_size=1,
            engine="DeepSpeedZeroOptimizer",
        )
        (workspace / "result.json").write_text(result.model_dump_json(by_alias=True))

    return make


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An EC private key, with its public half beside it."""
    private = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    path.with_suffix(".pub").write_bytes(public)
    return path


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and content."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


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
        "config.json", "model.safetensors", "extra/tokenizer.json", MANIFEST_FILE
    }  # fmt: skip
    data = (folder / MANIFEST_FILE).read_bytes()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == record.digest
    manifest = json.loads(data)
    assert [file["path"] for file in manifest["files"]] == ["config.json", "extra/tokenizer.json", "model.safetensors"]
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
    assert not output.exists()
    assert len(message.evaluation) == 1


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


def test_a_signature_is_made_by_the_key_and_breaks_with_any_change(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish, key: Path, tmp_path: Path
) -> None:
    finish()
    record = publish.publish(plan, workspace, output, key).artifact
    assert record is not None
    assert record.signed
    folder = output / record.digest.replace(":", "-")
    public = key.with_suffix(".pub")
    assert signed_by(folder, public)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    assert signed_by(elsewhere, public), "a signature survives the way to another place"
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "other.pub").write_bytes(
        other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert not signed_by(folder, tmp_path / "other.pub")
    for name in (MANIFEST_FILE, "model.safetensors", ".gitignore"):
        changed = tmp_path / f"changed-{name}"
        shutil.copytree(folder, changed)
        with (changed / name).open("ab") as file:
            file.write(b" ")
        assert not signed_by(changed, public), name


def test_a_key_that_comes_later_signs_what_lies_there(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish, key: Path
) -> None:
    finish()
    first = publish.publish(plan, workspace, output).artifact
    second = publish.publish(plan, workspace, output, key).artifact
    assert first is not None
    assert second is not None
    assert (first.digest, first.signed) == (second.digest, False)
    assert second.signed
    assert signed_by(output / second.digest.replace(":", "-"), key.with_suffix(".pub"))


def ed25519(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519 as other

    path.write_bytes(
        other.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def encrypted(path: Path) -> None:
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_text("SECRET-KEY-TEXT"), lambda path: path.unlink(), ed25519, encrypted]
)
def test_a_key_that_cannot_sign_is_a_config_error_that_does_not_quote_it(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish, key: Path, spoil: Callable[[Path], None]
) -> None:
    finish()
    spoil(key)
    with pytest.raises(ConfigError) as caught:
        publish.publish(plan, workspace, output, key)
    assert caught.value.reason == "SigningKeyInvalid"
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not output.exists(), "what should be signed never lies there unsigned"


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
    with pytest.raises(ConfigError, match="neither a plain file nor a folder"):
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
    with pytest.raises(ConfigError, match=r"config\.json is changed"):
        publish.publish(plan, workspace, output)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        verify(folder)
    (folder / "config.json").write_text("{}")
    (folder / "evil.py").write_text("")
    with pytest.raises(ConfigError, match=r"evil\.py is not in the manifest"):
        verify(folder)
    (folder / "evil.py").unlink()
    with pytest.raises(ConfigError, match="has digest"):
        verify(folder, DIGEST)
    (folder / MANIFEST_FILE).write_bytes((folder / MANIFEST_FILE).read_bytes() + b"\n")
    with pytest.raises(ConfigError, match="not in canonical form"):
        read_manifest(folder)


def test_what_a_killed_publish_pod_left_is_cleared(
    plan: TrainingPlan, workspace: Path, output: Path, finish: Finish
) -> None:
    finish()
    left = output / f".publishing-{workspace.name}-abc/artifact"
    left.mkdir(parents=True)
    record = publish.publish(plan, workspace, output).artifact
    assert record is not None
    assert sorted(path.name for path in output.iterdir()) == ["aliases", record.digest.replace(":", "-")]


def test_an_output_path_that_leads_out_of_its_volume_is_refused(
    plan: TrainingPlan, workspace: Path, tmp_path: Path, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish()
    monkeypatch.setattr(publish, "OUTPUT_PATH", str(tmp_path / "output"))
    (tmp_path / "output").mkdir()
    (tmp_path / "output/assistant").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out of its volume"):
        publish.publish(plan, workspace, tmp_path / "output/assistant")


@pytest.fixture
def last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], TerminationMessage]:
    log = tmp_path / "termination-log"
    monkeypatch.setenv("RLHF_TERMINATION_LOG", str(log))
    return lambda: TerminationMessage.model_validate_json(log.read_bytes())


def arguments(plan: TrainingPlan, tmp_path: Path, workspace: Path, **more: Any) -> argparse.Namespace:
    path = tmp_path / "plan.json"
    path.write_text(plan.canonical())
    return argparse.Namespace(plan=path, workspace=workspace, **more)


def test_publish_says_its_last_words(
    plan: TrainingPlan,
    workspace: Path,
    output: Path,
    tmp_path: Path,
    finish: Finish,
    last_words: Callable[[], TerminationMessage],
) -> None:
    given = arguments(plan, tmp_path, workspace, output=output, key=None)
    assert publish.main(given) == ExitCode.CRASH
    assert (last_words().reason, last_words().failure) == ("NoResult", FailureClass.CRASH)
    finish(policy_text="no")
    assert publish.main(given) == ExitCode.OK
    assert last_words().reason == "GateFailed"
    shutil.rmtree(workspace)
    finish()
    assert publish.main(given) == ExitCode.OK
    artifact = last_words().artifact
    assert artifact is not None
    assert artifact.gate == "Passed"
    assert last_words().evaluation[0].win_rate == 1.0
    (workspace / "result.json").write_text("{}")
    assert publish.main(given) == ExitCode.CONFIG
    assert last_words().reason == "ResultUnreadable"


def test_collect_says_what_the_run_said(
    plan: TrainingPlan,
    workspace: Path,
    tmp_path: Path,
    finish: Finish,
    last_words: Callable[[], TerminationMessage],
) -> None:
    given = arguments(plan, tmp_path, workspace)
    assert collect.main(given) != ExitCode.OK
    assert last_words().failure is FailureClass.RESULT_UNKNOWN
    finish()
    assert collect.main(given) == ExitCode.OK
    assert (last_words().failure, last_words().step, last_words().reason) == (None, 2, "Complete")
    assert last_words().evaluation[0].scorer == "yes"
    (workspace / "result.json").write_text('{"planDigest": 3')
    assert collect.main(given) != ExitCode.OK
    assert last_words().reason == "ResultUnreadable"
    given.plan.write_text("{}")
    assert collect.main(given) == ExitCode.CONFIG
    assert last_words().reason == "PlanInvalid"

"""The publish pod with output.s3: the artifact on the claim, a copy in the store, both with one digest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from remotekit.store import ACCESS_KEY, SECRET_KEY, Store
from rlhf_operator.api.result import Result
from rlhf_scoring.artifact import verify
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import digest_tree
from rlhf_trainer.publish import publish
from smallplan import plan_of

DIGEST = "sha256:" + "1" * 64


def test_an_artifact_is_published_on_the_claim_and_copied(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "writer"
    secret.mkdir()
    (secret / "accessKeyID").write_text(ACCESS_KEY)
    (secret / "secretAccessKey").write_text(SECRET_KEY)
    bucket = store.bucket("published")
    plan = plan_of(
        {"name": "train", "path": "/none", "ref": "pvc://data/none", "format": "Prompts", "columns": {}},
        output={
            "claim": "models",
            "path": "assistant",
            "alias": "v1",
            "s3": {"uri": "s3://published/assistant", "endpoint": store.endpoint},
            "credentials": str(secret),
        },
    )
    workspace = tmp_path / "workspace"
    policy = workspace / "attempts" / "1" / "policy"
    policy.mkdir(parents=True)
    (policy / "config.json").write_text("{}")
    (policy / "model.safetensors").write_bytes(b"weights" * 1000)
    result = Result(
        plan_digest=plan.digest(),
        attempt=1,
        step=2,
        finished_at=datetime.now(UTC),
        policy="attempts/1/policy",
        policy_digest=digest_tree(policy),
        base_model_digest=DIGEST,
        datasets=[],
        world_size=1,
        engine="none",
    )
    (workspace / "result.json").write_text(result.model_dump_json(by_alias=True))
    record = publish(plan, workspace, tmp_path / "output").artifact
    assert record is not None
    folder = record.digest.replace(":", "-")
    assert record.ref == f"pvc://models/assistant/{folder}"
    assert record.uri == f"s3://published/assistant/{folder}"
    assert verify(bucket / "assistant" / folder).digest() == record.digest
    assert (bucket / "assistant" / "aliases" / "v1.json").is_file()
    # Publishing again, as after a lost pod, says the same.
    assert publish(plan, workspace, tmp_path / "output").artifact == record
    (secret / "secretAccessKey").write_text("wrong")
    with pytest.raises(ConfigError, match="mend accessKeyID"):
        publish(plan, workspace, tmp_path / "output")

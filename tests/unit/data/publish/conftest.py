"""A workspace as training leaves it, and a key."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Result
from rlhf_scoring.build import build_scorers
from rlhf_trainer import evaluate
from rlhf_trainer.data import EVALUATION, prepare_all
from rlhf_trainer.files import digest_tree
from smalldata import MakePlan, dataset, evaluation, words, write_lines

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
                        lambda rows, seeds, text=text: [evaluate.Answer(text)] * len(rows),
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

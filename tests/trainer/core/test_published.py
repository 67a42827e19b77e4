"""From a plan to a signed artifact: training, evaluation, gate and publishing, each as the pod runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from transformers import AutoModelForCausalLM

from rlhf_operator.api.result import TerminationMessage
from rlhf_scoring.artifact import verify
from rlhf_trainer.evaluate import read
from rlhf_trainer.signature import signed_by

from .tiny import World, inherited_environment, make_base

GOLD = """
def grade(prompt, response, row):
    return float("sorry" in response) - 0.1 * (row["prompt"].split()[0] in response)
"""


def command(world: World, name: str, *more: str) -> TerminationMessage:
    """Run one of the one-shot commands; returns its last words."""
    words = world.root / f"termination-{name}"
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_trainer", name, "--plan", world.root / "plan.json", *more],
        env={**inherited_environment(), "RLHF_TERMINATION_LOG": str(words)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return TerminationMessage.model_validate_json(words.read_bytes())


def test_a_trained_policy_is_evaluated_judged_published_and_signed(world: Callable[..., World], tmp_path: Path) -> None:
    gold = tmp_path / "gold.py"
    gold.write_text(GOLD)
    held_out = tmp_path / "evaluation.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"{first} {last}", "first": first}) + "\n"
                                for first in ("no", "yes", "good")
                                for last in ("late", "help", "soon", "please", "thanks", "order")))  # fmt: skip
    sums = tmp_path / "sums.jsonl"
    sums.write_text("".join(json.dumps({"prompt": f"{word} {word} {word}"}) + "\n" for word in ("no", "yes", "good")))
    tiny = world(
        training={"steps": 25},
        checkpoints={"everySteps": 25},
        scorers=[
            {"name": "sorry", "grader": {"regex": {"pattern": "sorry"}}},
            {
                "name": "gold",
                "grader": {"python": {"configMap": {"name": "gold", "key": "gold.py"}}},
                "graderPath": str(gold),
            },
        ],
        monitors=["gold"],
        evaluation={
            "dataset": {
                "name": "evaluation",
                "path": str(held_out),
                "ref": "pvc://data/evaluation.jsonl",
                "format": "Prompts",
                "columns": {"prompt": "prompt"},
            },
            "baselines": ["Base", "Parent"],
            "scorers": ["gold"],
            "minWinRate": 0.55,
            "slices": {"columns": ["first"], "minSamples": 6, "maxDrop": 0.05},
            "suites": [
                {
                    "name": "sums",
                    "dataset": {
                        "name": "suite-sums",
                        "path": str(sums),
                        "ref": "pvc://data/sums.jsonl",
                        "format": "Prompts",
                        "columns": {"prompt": "prompt"},
                    },
                    "scorer": "sorry",
                    "maxDrop": 0.5,
                }
            ],
        },
        parentArtifact={"path": str(make_base(tmp_path / "parent", seed=1)), "ref": "pvc://models/parent"},
        output={"claim": "models", "path": "out", "alias": "latest", "sign": True},
    )
    run = tiny.start()
    assert run.wait() == 0, run.tail()
    result = tiny.result()
    assert [(each.scorer, each.baseline, each.prompts) for each in result.evaluation] == [
        ("gold", "Base", 18),
        ("gold", "Parent", 18),
    ]
    assert {(each.column, each.value, each.samples) for each in result.slices} == {
        ("first", word, 6) for word in ("no", "yes", "good")
    }
    assert [(each.suite, each.rows) for each in result.suites] == [("sums", 3)]
    assert result.figures["evalKL/Policy"] == pytest.approx(result.figures["kl"], rel=0.5), "the same KL, other prompts"
    assert {"evalDistinct2/Parent", "suite/sums/Policy", "gradNorm"} <= result.figures.keys()
    before, after = (read(tiny.workspace, subject).mean("gold") for subject in ("Base", "Policy"))
    assert before is not None
    assert after is not None
    assert after > before + 0.3, "the reward and the gold rule want the same thing"

    private = ec.generate_private_key(ec.SECP384R1())
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    output = tmp_path / "output/out"
    workspace = ("--workspace", str(tiny.workspace))
    published = command(tiny, "publish", *workspace, "--output", str(output), "--key", str(key))
    record = published.artifact
    assert record is not None
    assert (record.gate, record.signed, record.alias) == ("Passed", True, "latest")
    artifact = output / record.digest.replace(":", "-")
    lineage = verify(artifact, record.digest).lineage
    assert lineage.policy_digest == result.policy_digest
    assert set(lineage.scorers) == {"sorry", "gold"}
    assert {each.name: each.used for each in lineage.datasets} == {"train": 36, "evaluation": 18, "suite-sums": 3}
    assert signed_by(artifact, public)
    assert sum(1 for _ in AutoModelForCausalLM.from_pretrained(artifact, local_files_only=True).parameters()) > 0
    assert os.stat(artifact / "model.safetensors").st_nlink == 1, "a copy of its own"

    again = command(tiny, "publish", *workspace, "--output", str(output), "--key", str(key))
    assert again.artifact == record
    collected = command(tiny, "collect", *workspace)
    assert collected.evaluation == result.evaluation
    assert collected == run.message()

"""Signatures of artifacts, and the keys that can make them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rlhf_operator.api.plan import TrainingPlan
from rlhf_scoring.artifact import MANIFEST_FILE
from rlhf_trainer import publish
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.signature import signed_by

from .conftest import Finish


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

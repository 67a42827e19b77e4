"""Signatures of artifacts by an elliptic-curve key, in the OpenSSF model-signing format. Keys are never logged."""

import os
import tempfile
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

from rlhf_scoring.artifact import SIGNATURE_FILE

from .errors import ConfigError
from .files import sync_directory, sync_file

_KEY_BYTES = 64 * 1024
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_KEY_WANTED = "it must be a PEM file with an EC private key (P-256, P-384 or P-521) without a password"


def sign(artifact: Path, key: Path) -> None:
    """Sign every file of an artifact; an existing signature by the same key stays as it is.

    Raises ConfigError for a key that can't be used. No error is chained: none of its words may quote the key.
    """
    public = public_key(key)
    with tempfile.TemporaryDirectory() as scratch:
        public_path = Path(scratch, "key.pub")
        public_path.write_bytes(public)
        if signed_by(artifact, public_path):
            return
        signature = Path(scratch, SIGNATURE_FILE)
        signer = signing.Config()  # type: ignore[no-untyped-call]
        signer.use_elliptic_key_signer(private_key=key)
        signer.set_hashing_config(_hashing(artifact)).sign(artifact, signature)
        final = artifact / SIGNATURE_FILE
        temporary = final.with_name(f".{SIGNATURE_FILE}.{os.getpid()}.tmp")
        temporary.write_bytes(signature.read_bytes())
        sync_file(temporary)
        temporary.replace(final)
        sync_directory(artifact)


def signed_by(artifact: Path, public_key: Path) -> bool:
    """Whether an artifact carries a signature by this key over exactly these files."""
    signature = artifact / SIGNATURE_FILE
    if not signature.is_file():
        return False
    try:
        verifier = verifying.Config()  # type: ignore[no-untyped-call]
        verifier.use_elliptic_key_verifier(public_key=public_key)
        verifier.set_hashing_config(_hashing(artifact)).verify(artifact, signature)
    # The library raises what its parts raise: bad JSON, bad base64, InvalidSignature, a differing manifest.
    except Exception:
        return False
    return True


def _hashing(artifact: Path) -> hashing.Config:
    # Our own list: by default the library leaves .git* unsigned.
    config = hashing.Config()  # type: ignore[no-untyped-call]
    config.use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=[artifact / SIGNATURE_FILE], ignore_git_paths=False)


def public_key(key: Path) -> bytes:
    """The public half of a signing key, as PEM. Raises ConfigError for a key that can't be used."""
    try:
        with key.open("rb") as file:
            private = serialization.load_pem_private_key(file.read(_KEY_BYTES), password=None)
    except OSError as error:
        raise ConfigError(f"the signing key {key} can't be read: {error.strerror}", "SigningKeyInvalid") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"the signing key can't be used: {_KEY_WANTED}", reason="SigningKeyInvalid") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name not in _CURVES:
        raise ConfigError(f"the signing key can't be used: {_KEY_WANTED}", reason="SigningKeyInvalid")
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

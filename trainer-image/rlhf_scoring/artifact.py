"""A published artifact: files, manifest, digest, verification. Which policy becomes one is decided elsewhere."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.result import Comparison, Digest
from rlhf_operator.api.rewardgate import RewardFigures
from rlhf_operator.api.shared import Provenance

from .errors import ArtifactError
from .tree import digest_bytes, digest_file

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "model.sig"
RESERVED = frozenset({MANIFEST_FILE, SIGNATURE_FILE})
MANIFEST_BYTES = 16 * 1024 * 1024


class ArtifactFile(Model):
    """One file of an artifact."""

    path: str
    """Relative to the artifact, with slashes."""
    size_bytes: int
    sha256: Digest


class SourceRecord(Model):
    """An input, as a person names it, and its digest."""

    ref: str
    digest: Digest | None = None
    revision: str | None = None
    """Commit of a hub repository."""


class DatasetLineage(Model):
    """One data set as it was trained or judged on."""

    name: str
    ref: str
    revision: str | None = None
    """Commit of a hub repository."""
    digest: Digest
    rows: int
    used: int
    dropped: dict[str, int] = Field(default_factory=dict)
    provenance: Provenance | None = None


class RewardModelLineage(Model):
    """A reward model that judged."""

    scorer: str
    name: str
    version: Digest | None = None


class Lineage(Model):
    """Everything the artifact came from; nothing here depends on when, where or how often the job ran."""

    job: str
    plan_digest: Digest
    image: str
    engine: str
    world_size: int
    step: int
    policy_digest: Digest
    base_model: SourceRecord | None = None
    """None: made from no model, as graders are."""
    parent: SourceRecord | None = None
    datasets: tuple[DatasetLineage, ...]
    scorers: dict[str, Digest] = Field(default_factory=dict)
    reward_models: tuple[RewardModelLineage, ...] = ()


class Manifest(Model):
    """manifest.json: what the artifact is. Its canonical form's SHA-256 is the artifact's digest."""

    format: str = "rlhf.dev/artifact/v1"
    files: tuple[ArtifactFile, ...]
    """Sorted by path; every file but the manifest and the signature."""
    lineage: Lineage
    gate: str | None = None
    """The verdict on a policy. A reward model's can change with its limits, and is not part of what it is."""
    gate_message: str | None = None
    evaluation: tuple[Comparison, ...] = ()
    reward: tuple[RewardFigures, ...] = ()
    """A reward model's figures, by dimension."""

    def canonical(self) -> bytes:
        """The one JSON text of this manifest: sorted keys, no white space, nulls left out."""
        return json.dumps(self.dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def digest(self) -> str:
        """The artifact's digest."""
        return digest_bytes(self.canonical())


def inventory(directory: Path) -> tuple[ArtifactFile, ...]:
    """Every file below a directory, sorted by path.

    Raises ArtifactError for anything but plain files: a link could carry what lies elsewhere (a key) into the artifact.
    """
    found = [
        ArtifactFile(
            path=path.relative_to(directory).as_posix(), size_bytes=path.stat().st_size, sha256=digest_file(path)
        )
        for path in plain_files(directory)
    ]
    return tuple(sorted(found, key=lambda file: file.path))


def plain_files(directory: Path) -> list[Path]:
    """Paths of every file below a directory. Raises ArtifactError for links, devices and the like."""
    found = []
    for folder, folders, names in os.walk(directory, followlinks=False, onerror=_raise):
        for name in (*folders, *names):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise ArtifactError(f"{path} is neither a plain file nor a folder; an artifact holds nothing else")
    return found


def read_manifest(artifact: Path) -> Manifest:
    """The manifest of an artifact. Raises ArtifactError when it is not there or is none."""
    path = artifact / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES + 1)
        if len(data) > MANIFEST_BYTES:
            raise ArtifactError(f"{path} is larger than {MANIFEST_BYTES} bytes: this is not a manifest")
        manifest = Manifest.model_validate_json(data)
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{path} can't be read as a manifest: {_first_line(error)}") from error
    if manifest.canonical() != data:
        raise ArtifactError(f"{path} is not in canonical form: it was changed after it was written")
    return manifest


def verify(artifact: Path, digest: str | None = None) -> Manifest:
    """Hold every byte of an artifact against its manifest, and that against `digest` when given.

    Raises ArtifactError naming the first difference.
    """
    manifest = read_manifest(artifact)
    if digest is not None and manifest.digest() != digest:
        raise ArtifactError(f"{artifact} has digest {manifest.digest()}, not {digest}", reason="DigestMismatch")
    listed = {file.path: file for file in manifest.files}
    present = {file.path: file for file in inventory(artifact) if file.path not in RESERVED}
    for path in sorted(listed.keys() | present.keys()):
        if listed.get(path) != present.get(path):
            how = "missing" if path not in present else "not in the manifest" if path not in listed else "changed"
            raise ArtifactError(f"{artifact}: {path} is {how}", reason="DigestMismatch")
    return manifest


def _raise(error: OSError) -> Any:
    raise error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]

"""Version directories of RewardModels, as the publish Job writes them. What runs them is in process.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_operator.api.scorerfile import PROBES_FILE, SCORER_FILE, Probe, ScorerFile
from rlhf_scoring.artifact import MANIFEST_FILE, Lineage, Manifest, inventory

DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Version:
    """A directory and the digest of its manifest."""

    directory: Path
    digest: str


def seal(directory: Path, scorer: ScorerFile, probes: Sequence[Probe]) -> Version:
    """Add scorer.json, probes.jsonl and the manifest to what lies in the directory."""
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    (directory / SCORER_FILE).write_text(scorer.model_dump_json(by_alias=True, exclude_none=True))
    (directory / PROBES_FILE).write_text("".join(probe.model_dump_json(by_alias=True) + "\n" for probe in probes))
    lineage = Lineage(
        job="test",
        plan_digest=DIGEST,
        image="test",
        engine="test",
        world_size=1,
        step=1,
        policy_digest=DIGEST,
        datasets=(),
    )
    manifest = Manifest(files=inventory(directory), lineage=lineage)
    (directory / MANIFEST_FILE).write_bytes(manifest.canonical())
    return Version(directory, manifest.digest())


def graders_version(
    directory: Path, graders: Sequence[Mapping[str, Any]], dimensions: Sequence[str], probes: Sequence[Probe]
) -> Version:
    """A version made of code. graders: entries of scorer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    scorer = ScorerFile.model_validate({"kind": "Graders", "dimensions": dimensions, "graders": graders})
    return seal(directory, scorer, probes)

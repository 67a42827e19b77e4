"""Every example is taken as it is, means the same to the API server and to the types, and round-trips unchanged."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from apicluster import Cluster, Manifest
from rlhf_operator.api.crd import KINDS
from rlhf_operator.api.meta import Kind

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "examples").rglob("*.yaml"))
TYPES: dict[str, type[Kind]] = {kind.__name__: kind for kind in KINDS}


def our_examples() -> list[Manifest]:
    documents = (document for file in FILES for document in yaml.safe_load_all(file.read_text("utf-8")))
    return [document for document in documents if document and document["kind"] in TYPES]


def label(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def test_every_kind_and_every_algorithm_has_an_example() -> None:
    examples = our_examples()
    assert {example["kind"] for example in examples} == set(TYPES)
    blocks = {block for example in examples for block in example["spec"]}
    assert {"ppo", "grpo", "rloo", "dpo", "kto", "sft"} <= blocks


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_file_is_taken_as_it_is(cluster: Cluster, path: Path) -> None:
    cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(path))


@pytest.mark.parametrize("example", our_examples(), ids=label)
def test_the_server_fills_in_the_defaults_that_the_types_have(cluster: Cluster, example: Manifest) -> None:
    stored = cluster.create(example, dry_run=True)
    ours = TYPES[example["kind"]].model_validate(example)
    assert TYPES[example["kind"]].model_validate(stored).spec == ours.spec  # type: ignore[attr-defined]
    assert stored["spec"] == without_empty(ours.dump()["spec"], stored["spec"])


def without_empty(value: object, stored: object) -> object:
    """Our JSON form without the empty lists and maps that the user did not write, which the API server does not add."""
    if isinstance(value, dict) and isinstance(stored, dict):
        return {
            key: without_empty(child, stored.get(key))
            for key, child in value.items()
            if key in stored or child not in ([], {})
        }
    if isinstance(value, list) and isinstance(stored, list):
        return [without_empty(child, other) for child, other in zip(value, stored, strict=True)]
    # Quantities are text inside, and may be numbers outside.
    return int(value) if isinstance(value, str) and isinstance(stored, int) else value


@pytest.mark.parametrize("example", our_examples(), ids=label)
def test_what_was_got_can_be_applied_again_without_a_difference(cluster: Cluster, example: Manifest) -> None:
    manifest = yaml.safe_dump(example)
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    stored = cluster.get(example)
    assert diff(cluster, manifest) == ""
    assert diff(cluster, yaml.safe_dump(stored)) == ""
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(stored))
    again = cluster.get(example)
    assert again["spec"] == stored["spec"]
    assert again["metadata"]["generation"] == 1
    cluster.delete(example)


def diff(cluster: Cluster, manifest: str) -> str:
    """What `kubectl diff` shows: it ends with 1 where there is a difference."""
    done = subprocess.run(
        [
            str(cluster.bed.kubectl_binary),
            f"--kubeconfig={cluster.bed.kubeconfig}",
            f"--namespace={cluster.namespace}",
            "diff",
            "-f",
            "-",
        ],
        input=manifest,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout

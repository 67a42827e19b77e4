"""What the API server takes: manifests near the edge of a rule. The cases are in valid.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from apicluster import Cluster, Manifest, merged
from rlhf_operator.api.crd import KINDS

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "valid.yaml").read_text("utf-8"))
TYPES = {kind.__name__: kind for kind in KINDS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_manifest_near_the_edge_of_a_rule_is_taken(
    cluster: Cluster, bases: dict[str, Manifest], case: dict[str, Any]
) -> None:
    manifest = merged(bases[case["base"]], case["patch"])
    stored = cluster.create(manifest, dry_run=True)
    kind = TYPES[manifest["kind"]]
    assert kind.model_validate(stored).dump()["spec"] == kind.model_validate(manifest).dump()["spec"]

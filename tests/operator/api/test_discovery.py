"""What people see of the kinds: explain, short names, the category, and the columns of `kubectl get`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apicluster import Cluster, Manifest, merged
from rlhf_operator.api.crd import KINDS
from rlhf_operator.api.meta import Kind

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted((ROOT / "crds").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_crd_is_within_the_cost_budget_and_structural(cluster: Cluster, path: Path) -> None:
    """The API server refuses a CRD whose rules could cost too much, and marks one that is not structural."""
    answer = cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-o", "json", "-f", str(path)
    )
    conditions = {c["type"]: c["status"] for c in json.loads(answer)["status"].get("conditions", [])}
    assert conditions["Established"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("rlhfjob.spec", ["Immutable from creation", "ppo", "-required-", "Proximal policy optimization"]),
        ("rj.spec.ppo.kl", ["Adaptive moves the coefficient", "enum: Adaptive, Fixed"]),
        ("rj.spec.guards", ["Stop ends the run as failed", "rewardHacking"]),
        ("rj.spec.dataset.columns.prompt", ["joined by a blank line"]),
        ("rm.spec.evaluation.maxLengthBias", ["Spearman"]),
        ("pr.spec.strategy.steps", ["it never goes down", "mirror", "approval"]),
        ("pr.status.variants", ["Stable or Candidate"]),
    ],
)
def test_explain_tells_what_a_field_means(cluster: Cluster, field: str, words: list[str]) -> None:
    text = " ".join(cluster.kubectl("explain", field).split())
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_short_names_work(cluster: Cluster, kind: type[Kind]) -> None:
    assert kind.plural in cluster.kubectl("api-resources", "--api-group=rlhf.dev", "-o", "wide")
    cluster.kubectl("get", kind.short_name)


def test_the_category_lists_all_three_kinds(cluster: Cluster, bases: dict[str, Manifest]) -> None:
    manifests = [
        cluster.create(merged(bases[name], {"metadata": {"name": "listed"}})) for name in ("ppo", "graders", "rollout")
    ]
    names = cluster.kubectl("get", "rlhf", "-o", "name").split()
    assert {f"{kind.__name__.lower()}.rlhf.dev/listed" for kind in KINDS} <= set(names)
    for manifest in manifests:
        cluster.delete(manifest)


def test_get_shows_what_a_person_wants_to_know(cluster: Cluster, bases: dict[str, Manifest]) -> None:
    job = cluster.create(merged(bases["ppo"], {"metadata": {"name": "shown"}}))
    status = {
        "algorithm": "PPO",
        "phase": "Running",
        "progress": {"step": 7, "steps": 10, "reward": 0.5, "kl": 1.25},
        "artifact": {"gate": "Passed"},
    }
    cluster.patch(job, {"status": status}, subresource="_status")
    header, row = cluster.kubectl("get", "rj", "shown").splitlines()
    assert header.split() == ["NAME", "ALGORITHM", "PHASE", "STEP", "STEPS", "REWARD", "KL", "GATE", "AGE"]
    assert row.split()[:-1] == ["shown", "PPO", "Running", "7", "10", "0.5", "1.25", "Passed"]
    cluster.delete(job)

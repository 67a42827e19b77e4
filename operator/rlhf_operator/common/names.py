"""Names, labels and owner references of children. All are functions of their owner, so that nothing is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf_operator.api.base import API_VERSION

from .intents import MANAGED_BY, MANAGED_BY_LABEL, OWNER_KIND_LABEL, OWNER_NAME_LABEL

JOB_LABEL = "rlhf.dev/job"
REWARD_MODEL_LABEL = "rlhf.dev/reward-model"
ATTEMPT_LABEL = "rlhf.dev/attempt"
ROLE_LABEL = "rlhf.dev/role"
PLAN_LABEL = "rlhf.dev/plan"
GATE_LABEL = "rlhf.dev/gate"
VERSION_LABEL = "rlhf.dev/version"
ROLLOUT_LABEL = "rlhf.dev/rollout"
REVISION_LABEL = "rlhf.dev/revision"

_NAME_LABELS = {"RewardModel": REWARD_MODEL_LABEL, "PolicyRollout": ROLLOUT_LABEL}
"""By kind; selectors of two objects that share a name never meet."""

MAX_LABEL = 63
"""Longest DNS label and label value: host names of pods end within it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The object of ours that children belong to."""

    kind: str
    namespace: str
    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Return the controller reference: deleting the owner deletes the child, with the operator up or down."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    @property
    def label(self) -> str:
        """The label that holds the owner's name in selectors."""
        return _NAME_LABELS.get(self.kind, JOB_LABEL)

    def labels(self) -> dict[str, str]:
        """Return the labels by which caches select children and find the key to wake."""
        return {MANAGED_BY_LABEL: MANAGED_BY, OWNER_KIND_LABEL: self.kind, OWNER_NAME_LABEL: self.name}


def metadata(owner: Owner, name: str, labels: dict[str, str] | None = None, *, owned: bool = True) -> dict[str, Any]:
    """Return a child's metadata. `owned` False leaves the owner reference out: the child outlives its owner."""
    if len(name) > MAX_LABEL:
        raise ValueError(f"{name!r} is longer than {MAX_LABEL} characters")
    result: dict[str, Any] = {
        "name": name,
        "namespace": owner.namespace,
        "labels": owner.labels() | (labels or {}),
    }
    if owned:
        result["ownerReferences"] = [owner.reference()]
    return result

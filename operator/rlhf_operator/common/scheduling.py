"""The part of a pod's spec that users set by plain fields rather than by a template. Pure."""

from __future__ import annotations

from typing import Any

from rlhf_operator.api.pods import PodFields


def scheduling(wanted: PodFields) -> dict[str, Any]:
    """Return nodes, tolerations, pull secrets, account and priority, as far as they are set."""
    fields: dict[str, Any] = {
        "nodeSelector": dict(wanted.node_selector),
        "tolerations": [each.dump() for each in wanted.tolerations],
        "imagePullSecrets": [each.dump() for each in wanted.image_pull_secrets],
        "serviceAccountName": wanted.service_account_name,
        "priorityClassName": wanted.priority_class_name,
    }
    return {name: value for name, value in fields.items() if value}

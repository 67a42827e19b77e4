"""Which graders the live judge can run, and which addresses it may send answers to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_operator.api.graders import Grader
from rlhf_operator.common.hosts import why_not_allowed
from rlhf_operator.runs.addresses import address_of


def why_not_judgeable(grader: Grader, allowed_hosts: Sequence[str]) -> str | None:
    """Return why the live judge can't ask the grader, in words that say the way out; None when it can."""
    if grader.unit_tests is not None:
        return "grader.unitTests can't judge live answers, which come without tests: use another grader"
    if grader.python is not None and grader.python.config_map is not None:
        return "a Python grader of a ConfigMap does not judge live answers: make it a RewardModel"
    address = address_of(grader)
    if address is None:
        return None
    field, url = address
    refused = why_not_allowed(url, allowed_hosts)
    return f"{field}: {refused}" if refused is not None else None

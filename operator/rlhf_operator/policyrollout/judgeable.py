"""Which graders the live judge can run, and which addresses it may send answers to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_operator.api.base import to_camel
from rlhf_operator.api.graders import Grader
from rlhf_operator.common.hosts import why_not_allowed

_UNSUPPORTED = ("unit_tests", "http")


def why_not_judgeable(grader: Grader, allowed_hosts: Sequence[str]) -> str | None:
    """Return why the live judge can't ask the grader, in words that say the way out; None when it can."""
    for kind in _UNSUPPORTED:
        if getattr(grader, kind) is not None:
            return f"grader.{to_camel(kind)} can't judge live answers in this version: use another grader"
    if grader.python is not None and grader.python.config_map is not None:
        return "a Python grader of a ConfigMap does not judge live answers: make it a RewardModel"
    if grader.llm_judge is None:
        return None
    refused = why_not_allowed(grader.llm_judge.url, allowed_hosts)
    return f"grader.llmJudge.url: {refused}" if refused is not None else None

"""Samples and plans of a live judge, with defaults."""

from __future__ import annotations

from typing import Any

from rlhf_operator.api.signals import JudgePlan, LiveSample

STABLE, CANDIDATE = "aaaaaaaaaa", "bbbbbbbbbb"
PROMPT_DIGEST, SAMPLING_DIGEST = "sha256:" + "0" * 64, "sha256:" + "1" * 64


def sample(request_id: str, role: str = "live", answer: str = "an answer", **changes: Any) -> LiveSample:
    """An answer of stable to a user, or of the candidate to a copy."""
    said = {
        "requestId": request_id,
        "promptDigest": PROMPT_DIGEST,
        "revision": STABLE if role == "live" else CANDIDATE,
        "role": role,
        "served": STABLE,
        "prompt": "p",
        "answer": answer,
        "finishReason": "stop",
        "samplingDigest": SAMPLING_DIGEST,
        "at": 1.0,
        **changes,
    }
    return LiveSample.model_validate(said)


def pair(request_id: str, live: str = "an answer", shadow: str = "another", **changes: Any) -> list[LiveSample]:
    """Both halves."""
    return [sample(request_id, "live", live, **changes), sample(request_id, "shadow", shadow, **changes)]


def scorer(name: str, purpose: str, grader: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """One scorer of a plan."""
    return {"name": name, "purpose": purpose, "grader": grader, **changes}


SHORTER = {"length": {"unit": "Words", "max": 1, "slack": 10}}
"""A shorter answer scores higher."""
NOT_BAD = {"regex": {"pattern": "bad", "negate": True}}


def plan(*scorers: dict[str, Any], **changes: Any) -> JudgePlan:
    """A plan of rollout chat in namespace ns."""
    return JudgePlan.model_validate({"namespace": "ns", "rollout": "chat", "scorers": list(scorers), **changes})

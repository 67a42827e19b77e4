"""Graders behind an address: where texts go, and the Secrets that hold their tokens. Pure."""

from __future__ import annotations

from rlhf_operator.api.base import to_camel
from rlhf_operator.api.graders import Grader, HTTPGrader, LLMJudgeGrader
from rlhf_operator.api.plan import TOKEN_FILE, TOKENS_PATH


def address_of(grader: Grader) -> tuple[str, str] | None:
    """Return (field, URL) of a grader behind an address; None for one that needs none."""
    for name in ("http", "llm_judge"):
        block: HTTPGrader | LLMJudgeGrader | None = getattr(grader, name)
        if block is not None:
            return f"grader.{to_camel(name)}.url", block.url
    return None


def secret_of(grader: Grader) -> str | None:
    """Return the Secret with the token of a grader behind an address."""
    block = grader.http or grader.llm_judge
    return block.secret_ref.name if block is not None and block.secret_ref is not None else None


def token_path(grader: Grader) -> str | None:
    """Return the file that a pod finds the token in."""
    secret = secret_of(grader)
    return f"{TOKENS_PATH}/{secret}/{TOKEN_FILE}" if secret is not None else None

"""How a run's end is learnt: rank 0's word, a collected one, or none."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.views import Observed

from .factory import (
    NOW,
    dead,
    is_status,
    job,
    names,
    running,
    spec_of,
    verdict,
)


def test_rank_0s_word_is_success_even_when_another_pod_failed() -> None:
    said = verdict().encode().decode()
    view = running(attempts=(job(1, dead(0, 0, said), dead(1, 70), failed=True, verdict=verdict()),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"


def test_the_last_words_replace_the_last_reading() -> None:
    said = verdict(step=10, figures={"reward": 0.9, "kl": 1.5, "truncatedShare": 0.1})
    view = running(attempts=(job(1, dead(0, 0, said.encode().decode()), dead(1, 0), verdict=said),))
    status = reconcile(view, NOW).status
    assert status is not None
    shown = {name: status["progress"][name] for name in ("step", "steps", "reward", "kl", "etaSeconds")}
    assert shown == {"step": 10, "steps": 10, "reward": 0.9, "kl": 1.5, "etaSeconds": 0}


def test_a_complete_job_without_a_verdict_is_not_success() -> None:
    plan = reconcile(running(attempts=(job(1, complete=True),)), NOW)
    assert names(plan.create) == ["Job/assistant-collect-1"]
    assert is_status(plan, "Complete") == "False/NotFinished"
    assert plan.status is not None
    assert plan.status["attempts"][-1].get("class") is None


@pytest.mark.parametrize("plan_digest", ["sha256:" + "9" * 64])
def test_a_verdict_about_another_plan_is_none(plan_digest: str) -> None:
    other = verdict(planDigest=plan_digest)
    plan = reconcile(running(attempts=(job(1, dead(0, 0), dead(1, 0), complete=True, verdict=other),)), NOW)
    assert names(plan.create) == ["Job/assistant-collect-1"]


def collected(**fields: Any) -> Observed:
    return running(
        attempts=(job(1, complete=True),),
        collect=job(1, name="assistant-collect-1", uid="collect", role="collect", workers=1, **fields),
    )


def test_the_collected_verdict_arrives() -> None:
    plan = reconcile(collected(complete=True, verdict=verdict()), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"


def test_no_verdict_at_all_is_result_unknown_and_never_complete() -> None:
    plan = reconcile(collected(failed=True, failed_message="no result.json"), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "ResultUnknown"
    assert plan.status["restarts"] == 1
    waiting = reconcile(collected(), NOW)
    assert waiting.create == ()
    assert waiting.status is not None
    assert waiting.status["phase"] == "Finishing"


def test_a_workspace_without_a_result_is_asked_once() -> None:
    said = verdict(failure="ResultUnknown", reason="NoResult", message="result.json is not there")
    plan = reconcile(collected(verdict=said), NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "ResultUnknown"
    # What could not be read may be readable on another node.
    unread = verdict(failure="ResultUnknown", reason="ResultUnreadable", message="I/O error")
    still = reconcile(collected(verdict=unread), NOW)
    assert still.status is not None
    assert still.status["phase"] == "Finishing"


def test_a_result_that_came_before_the_suspension_counts() -> None:
    said = verdict()
    view = running(
        spec_of(suspend=True),
        attempts=(job(1, dead(0, 0, said.encode().decode()), dead(1, 0), deleting=True, verdict=said),),
    )
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["attempts"][-1]["class"] == "Succeeded"

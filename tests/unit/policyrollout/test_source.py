"""Which artifact is wanted: of a job, of the newest, of none that failed; and that a job may go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rlhf_operator.api.policyrollout import ModelSource
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.policyrollout.source import Resolved, resolve
from rlhf_operator.policyrollout.views import Source

from .makings import SOURCE, job

LINE: dict[str, Any] = {"labels": {"line": "assistant"}}
SELECTOR = {"rlhfJobSelector": {"matchLabels": {"line": "assistant"}}}
REF = {"rlhfJobRef": {"name": "assistant-7"}}


def found(model: dict[str, Any], *jobs: Any, recorded: tuple[Source, ...] = ()) -> Resolved:
    return resolve(ModelSource.model_validate(model), jobs, recorded)


def digest(resolved: Resolved) -> str:
    assert resolved.source is not None, resolved
    return resolved.source.digest


def test_a_jobs_artifact_with_everything_a_revision_needs_of_it() -> None:
    resolved = found(REF, job("assistant-7", "sha256-abc"))
    assert resolved.source == Source(
        digest=sha256_of(b"sha256-abc"),
        ref="pvc://models/policies/sha256-abc",
        claim="models",
        folder="policies/sha256-abc",
        job="assistant-7",
        origin="job/assistant-7",
        gate="Passed",
        completed_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    )


def test_a_job_that_is_gone_takes_nothing_away() -> None:
    assert found(REF, recorded=(SOURCE,)).source == SOURCE
    assert found(REF, job("assistant-7"), recorded=(SOURCE,)).source == SOURCE, "one of the same name that trains"


def test_what_another_reference_resolved_to_is_not_taken_for_this_one() -> None:
    other = replace(SOURCE, origin="job/other")
    assert found(REF, recorded=(other,)).reason == "SourceNotFound"


def test_the_newest_of_the_selected_is_taken_and_others_are_not() -> None:
    older = job("a", "one", at="2026-01-01T00:00:00Z", **LINE)
    newer = job("b", "two", at="2026-02-01T00:00:00Z", **LINE)
    other = job("c", "three", at="2026-03-01T00:00:00Z", labels={"line": "other"})
    assert digest(found(SELECTOR, newer, older, other)) == sha256_of(b"two")


def test_deleting_the_newest_job_does_not_bring_the_one_before_it_back() -> None:
    older = job("a", "one", at="2026-01-01T00:00:00Z", **LINE)
    newest = found(SELECTOR, job("b", "two", at="2026-02-01T00:00:00Z", **LINE)).source
    assert newest is not None
    assert digest(found(SELECTOR, older, recorded=(newest,))) == sha256_of(b"two")


@pytest.mark.parametrize("gate", ["Failed", "NotEvaluated"])
def test_one_that_did_not_pass_is_skipped_by_a_selector(gate: str) -> None:
    older = job("a", "one", at="2026-01-01T00:00:00Z", **LINE)
    newer = job("b", "two", gate=gate, at="2026-02-01T00:00:00Z", **LINE)
    assert digest(found(SELECTOR, older, newer)) == sha256_of(b"one")


def test_one_that_was_not_evaluated_is_served_only_when_the_spec_admits_it() -> None:
    ungated = job("assistant-7", "one", gate="NotEvaluated")
    refused = found(REF, ungated)
    assert (refused.source, refused.reason) == (None, "NotEvaluated")
    assert "allowUngated" in refused.message
    assert digest(found(REF | {"allowUngated": True}, ungated)) == sha256_of(b"one")


def test_one_that_failed_is_never_served() -> None:
    failed = found(REF | {"allowUngated": True}, job("assistant-7", "one", gate="Failed"))
    assert (failed.source, failed.reason) == (None, "GateFailed")
    recorded = found(REF | {"allowUngated": True}, recorded=(replace(SOURCE, gate="Failed"),))
    assert (recorded.source, recorded.reason) == (None, "GateFailed")


def adapter(name: str, artifact: str | None = None, **lora: Any) -> Any:
    return job(name, artifact, **LINE) | {"spec": {"lora": {"rank": 8, **lora}}}


@pytest.mark.parametrize("artifact", [None, "one"])
@pytest.mark.parametrize("lora", [{}, {"output": "Adapter"}])
def test_a_job_that_makes_an_adapter_is_refused_before_it_has_published(artifact: str | None, lora: Any) -> None:
    for model in (REF, SELECTOR):
        refused = found(model, adapter("assistant-7", artifact, **lora))
        assert (refused.source, refused.reason) == (None, "NotServable")
        assert "assistant-7" in refused.message
        assert "lora.output: Merged" in refused.message


def test_a_merged_adapter_is_a_model() -> None:
    assert digest(found(REF, adapter("assistant-7", "one", output="Merged"))) == sha256_of(b"one")


def test_a_selector_takes_the_newest_that_is_no_adapter() -> None:
    older = job("a", "one", at="2026-01-01T00:00:00Z", **LINE)
    assert digest(found(SELECTOR, older, adapter("b", "two"))) == sha256_of(b"one")


def test_what_is_waited_for_is_said() -> None:
    assert "step 3 of 8" in found(REF, job("assistant-7")).message
    ended = job("assistant-7")
    ended["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": "GuardStopped", "message": "kl"}]
    assert found(REF, ended).reason == "SourceFailed"
    assert found(SELECTOR).reason == "SourceNotFound"


def test_an_artifact_of_the_spec_is_any_model_on_a_claim() -> None:
    place = {"pvc": {"claimName": "models", "path": "base"}, "digest": sha256_of(b"base")}
    source = found({"artifact": place}).source
    assert source == Source(sha256_of(b"base"), "pvc://models/base", "models", "base", origin="artifact")


@pytest.mark.parametrize(
    ("place", "field"),
    [({"hf": {"repo": "org/name"}}, "model.artifact.hf"), ({"s3": {"uri": "s3://bucket/x"}}, "model.artifact.s3")],
)
def test_other_places_are_refused_by_name(place: dict[str, Any], field: str) -> None:
    resolved = found({"artifact": place | {"digest": sha256_of(b"base")}})
    assert resolved.reason == "NotSupportedYet"
    assert field in resolved.message


def test_a_status_that_somebody_broke_hides_only_what_is_broken() -> None:
    broken = job("assistant-7", "one")
    broken["status"]["progress"] = "nonsense"
    assert digest(found(REF, broken)) == sha256_of(b"one")

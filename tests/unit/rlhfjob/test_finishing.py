"""After training: publishing, the gate, and what is left to do for a finished job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Comparison, TerminationMessage
from rlhf_operator.rlhfjob.gate import evaluation_status, passes
from rlhf_operator.rlhfjob.plan import uses_training_reward
from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.run import data_refs
from rlhf_operator.rlhfjob.views import Observed

from .factory import (
    DIGEST,
    FOUND,
    NOW,
    SPEC,
    attempt,
    condition,
    dead,
    frozen,
    is_status,
    job,
    observed,
    pod,
    running,
    spec_of,
    status_of,
    verdict,
)

COMPARISON = {
    "scorer": "gold",
    "baseline": "Base",
    "winRate": 0.52,
    "lower": 0.48,
    "upper": 0.56,
    "mean": 1.0,
    "baselineMean": 0.9,
    "prompts": 200,
}
EVALUATION = {"dataset": SPEC["dataset"], "scorers": ["gold"], "minWinRate": 0.5}


def artifact(**fields: Any) -> dict[str, Any]:
    record = {
        "ref": "pvc://models/artifacts/assistant",
        "digest": DIGEST,
        "gate": "Passed",
        "baseModelDigest": DIGEST,
        "datasetDigests": [DIGEST],
        "planDigest": frozen().digest,
    }
    return record | fields


def trained(**changes: Any) -> Observed:
    state: dict[str, Any] = {
        "plan": frozen(),
        "status": status_of(attempts=[attempt(1, "Succeeded")], planDigest=frozen().digest),
        "attempts": (job(1, dead(0, 0), dead(1, 0), complete=True),),
    }
    return observed(changes.pop("spec", None), **(state | changes))


def publishing(**fields: Any) -> Any:
    return job(1, name="assistant-publish-1", uid="publish", role="publish", workers=1, **fields)


def test_success_records_the_evaluation_and_the_publish_job_follows() -> None:
    spec = spec_of(evaluation=EVALUATION)
    said = verdict(planDigest=frozen(spec).digest, evaluation=[COMPARISON], checkpoint={"step": 8, "digest": DIGEST})
    view = running(spec, attempts=(job(1, dead(0, 0), dead(1, 0), complete=True, verdict=said),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    assert plan.status["evaluation"]["comparisons"][0]["passed"] is False
    assert plan.status["checkpoint"] == {"step": 8, "digest": DIGEST}
    assert (plan.create, plan.delete) == ((), ())
    after = replace(view, status=status_of(**plan.status), raw_status=plan.status)
    made = reconcile(after, NOW).create
    assert [each["metadata"]["name"] for each in made] == ["assistant-publish-1"]


def test_only_the_publish_pod_mounts_the_key() -> None:
    spec = spec_of(output={"signing": {"secretRef": {"name": "model-key"}, "key": "k.pem"}})
    publish = reconcile(trained(spec=spec, plan=frozen(spec)), NOW).create[0]
    train = reconcile(
        observed(
            spec,
            plan=frozen(spec),
            status=status_of(attempts=[attempt(1, "Disruption")]),
            references=replace(FOUND, secrets={"model-key": frozenset({"k.pem"})}),
        ),
        NOW,
    ).create[-1]
    text = str(publish["spec"]["template"])
    assert "'secretName': 'model-key'" in text
    assert "/rlhf/signing-key/k.pem" in text
    assert "secretName" not in str(train["spec"]["template"])
    # Graders' code never shares a pod with the key.
    assert "/rlhf/configmaps" not in text


@pytest.mark.parametrize("gate", ["Passed", "NotEvaluated"])
def test_a_published_artifact_completes_the_job(gate: str) -> None:
    said = verdict(artifact=artifact(gate=gate, signed=True, alias="v1"))
    plan = reconcile(trained(publish=publishing(complete=True, verdict=said)), NOW)
    assert is_status(plan, "Complete") == "True/Complete"
    assert is_status(plan, "Ready") == "True/Complete"
    assert is_status(plan, "Published") == "True/Published"
    assert is_status(plan, "Failed") == "False/Complete"
    assert plan.status is not None
    assert plan.status["artifact"]["gate"] == gate
    assert plan.status["artifact"]["image"] == "registry.example/trainer:1"
    assert plan.status["completionTime"] == "2026-01-31T12:00:00Z"


def test_a_gate_that_failed_names_its_figures() -> None:
    words = "gold over Base: win rate 0.520, lower bound 0.480 < minWinRate 0.5 (200 prompts)"
    said = verdict(artifact=artifact(gate="Failed", gateMessage=words, ref="workspace://assistant-1/policy"))
    spec = spec_of(evaluation=EVALUATION)
    view = trained(spec=spec, plan=frozen(spec), publish=publishing(complete=True, verdict=said))
    plan = reconcile(view, NOW)
    assert is_status(plan, "Failed") == "True/GateFailed"
    assert words in condition(plan, "Failed")["message"]
    assert is_status(plan, "Evaluated") == "True/GateFailed"
    # Nothing left the workspace.
    assert is_status(plan, "Published") == "False/GateFailed"
    for name in ("Published", "Failed"):
        assert "workspace://assistant-1/policy" in condition(plan, name)["message"]
    assert "is published" not in condition(plan, "Failed")["message"].replace("Nothing is published", "")
    assert [event.reason for event in plan.events] == ["GateFailed", "GateFailed"]


LIMITS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"minWinRate": 0.48}, {}, True),
    ({"minWinRate": 0.49}, {}, False),
    ({"minImprovement": 0.2}, {}, True),
    ({"minImprovement": 0.2}, {"baseline": "WarmStart"}, False),
    ({"minImprovement": 0.05}, {"baseline": "WarmStart"}, True),
]


@pytest.mark.parametrize(("limits", "figures", "passed"), LIMITS)
def test_each_comparison_is_held_against_the_limits_that_are_its(
    limits: dict[str, Any], figures: dict[str, Any], passed: bool
) -> None:
    spec = spec_of(evaluation={**EVALUATION, "minWinRate": None, **limits})
    assert passes(Comparison.model_validate(COMPARISON | figures), spec) is passed


SUITE = {"name": "sums", "dataset": SPEC["dataset"]}


def test_suites_and_the_worst_slices_are_shown_with_what_passed() -> None:
    suite = {"name": "sums", "dataset": SPEC["dataset"], "scorer": "gold", "maxDrop": 0.02}
    spec = spec_of(evaluation={**EVALUATION, "suites": [suite], "slices": {"columns": ["kind"], "minSamples": 10}})
    resolved = frozen(spec)
    assert isinstance(resolved.plan, TrainingPlan)
    assert resolved.plan.evaluation is not None
    (planned,) = resolved.plan.evaluation.suites or []
    assert (planned.dataset.name, planned.max_drop) == ("suite-sums", 0.02)
    assert "evaluation.suites[sums].dataset" in dict(data_refs(spec))
    slices = [
        {"scorer": "gold", "column": "kind", "value": value, "mean": 0.0, "baselineMean": 0.5, "samples": samples}
        for value, samples in (("billing", 40), ("rare", 3))
    ]
    said = verdict(
        planDigest=resolved.digest,
        evaluation=[COMPARISON],
        suites=[{"suite": "sums", "scorer": "gold", "mean": 0.4, "baselineMean": 0.5, "rows": 20}],
        slices=slices,
    )
    plan = reconcile(running(spec, attempts=(job(1, dead(0, 0), dead(1, 0), complete=True, verdict=said),)), NOW)
    assert plan.status is not None
    shown = plan.status["evaluation"]
    assert shown["suites"] == [{"name": "sums", "score": 0.4, "baselineScore": 0.5, "passed": False}]
    assert [(each["value"], each["drop"], each["passed"]) for each in shown["slices"]] == [
        ("billing", 0.5, False),
        ("rare", 0.5, True),
    ]
    assert "suite:sums" in plan.status["effective"]["metrics"]


def test_a_suite_that_is_not_told_of_is_said_to_be_missing() -> None:
    spec = spec_of(evaluation={**EVALUATION, "suites": [{**SUITE, "scorer": "gold"}]})
    found = evaluation_status(verdict(evaluation=[COMPARISON]), spec)
    assert found is not None
    assert found.message is not None
    assert found.message.startswith("1 of 1 suites are not listed here")


def test_figures_that_did_not_fit_into_the_last_words_are_said_to_be_missing() -> None:
    scorers = [{"name": f"scorer-{number}", "grader": {"length": {"max": 8}}} for number in range(14)]
    names = [each["name"] for each in scorers]
    spec = spec_of(
        scorers=[*SPEC["scorers"], *scorers],
        evaluation={**EVALUATION, "scorers": names, "baselines": ["Base", "WarmStart"]},
        warmStart={
            "dataset": {**SPEC["dataset"], "format": "Demonstrations"},
            "training": {"epochs": 1, "batchSize": 8},
        },
    )
    figures = [COMPARISON | {"scorer": name, "baseline": base} for name in names for base in ("Base", "WarmStart")]
    said = TerminationMessage.model_validate_json(
        verdict(planDigest=frozen(spec).digest, evaluation=figures, message="m" * 900).encode()
    )
    assert 5 < len(said.evaluation) < 28
    view = running(spec, attempts=(job(1, dead(0, 0), dead(1, 0), complete=True, verdict=said),))
    plan = reconcile(view, NOW)
    assert plan.status is not None
    missing = f"{28 - len(said.evaluation)} of 28 comparisons"
    assert missing in plan.status["evaluation"]["message"]
    published = verdict(artifact=artifact(gateMessage="held", planDigest=frozen(spec).digest))
    after = replace(
        view,
        status=status_of(**plan.status),
        raw_status=plan.status,
        publish=publishing(complete=True, verdict=published),
    )
    assert f"held; {missing}" in condition(reconcile(after, NOW), "Evaluated")["message"]


@pytest.mark.parametrize(
    ("evaluation", "warns"),
    [
        ({"scorers": ["short"]}, True),
        ({"scorers": [], "minWinRate": None, "suites": [{**SUITE, "scorer": "short"}]}, True),
        ({"scorers": ["short"], "suites": [{**SUITE, "scorer": "gold"}]}, False),
    ],
)
def test_a_gate_by_the_training_reward_alone_warns(evaluation: dict[str, Any], warns: bool) -> None:
    spec = spec_of(evaluation={**EVALUATION, **evaluation})
    if not warns:
        assert not uses_training_reward(spec)
        return
    said = verdict(artifact=artifact(gateMessage="held"))
    plan = reconcile(trained(spec=spec, plan=frozen(spec), publish=publishing(complete=True, verdict=said)), NOW)
    assert is_status(plan, "Evaluated") == "True/GateUsesTrainingReward"
    assert [event.type for event in plan.events if event.reason == "GateUsesTrainingReward"] == ["Warning"]


def test_a_publish_pod_that_went_unread_is_run_again() -> None:
    plan = reconcile(trained(publish=publishing(complete=True)), NOW)
    assert [each.uid for each in plan.delete] == ["publish"]
    assert is_status(plan, "Complete") == "False/NotFinished"


def test_publishing_that_fails_fails_the_job_in_its_words() -> None:
    failed = publishing(failed=True, pods=(dead(0, 70, "OSError: disk full"),))
    plan = reconcile(trained(publish=failed), NOW)
    assert is_status(plan, "Failed") == "True/PublishFailed"
    assert "disk full" in condition(plan, "Failed")["message"]


def test_publishing_waits_while_the_job_is_suspended() -> None:
    plan = reconcile(trained(spec=spec_of(suspend=True)), NOW)
    assert plan.create == ()
    assert is_status(plan, "Suspended") == "True/Suspended"


def finished(**changes: Any) -> Observed:
    said = verdict(artifact=artifact())
    view = trained(publish=publishing(complete=True, verdict=said))
    status = reconcile(view, NOW).status
    assert status is not None
    return replace(view, status=status_of(**status), raw_status=status, **changes)


def test_a_finished_job_writes_nothing_more() -> None:
    plan = reconcile(finished(), NOW + timedelta(days=1))
    assert (plan.apply, plan.create, plan.delete, plan.status, plan.events) == ((), (), (), None, ())


def test_a_finished_job_frees_its_name_and_what_still_runs() -> None:
    sidecar = job(1, pod(0, exit_code=0, busy=True), pod(1, exit_code=0, busy=True))
    plan = reconcile(finished(service_uid="service", attempts=(sidecar,)), NOW)
    assert [each.uid for each in plan.delete] == ["job-1", "service"]


def test_a_job_whose_pods_have_just_ended_is_kept_for_its_logs() -> None:
    # Nothing runs any more; the kubelet says Running until it has torn the pod down.
    just_ended = job(1, pod(0, exit_code=0), pod(1, exit_code=0))
    assert reconcile(finished(attempts=(just_ended,)), NOW).delete == ()


def test_a_finished_job_observes_what_may_still_change() -> None:
    plan = reconcile(finished(generation=2), NOW)
    assert plan.status is not None
    assert plan.status["observedGeneration"] == 2
    assert is_status(plan, "Complete") == "True/Complete"


@pytest.mark.parametrize(("ttl", "gone"), [(0, True), (60, False), (None, False)])
def test_a_finished_job_is_deleted_when_its_time_is_up(ttl: int | None, gone: bool) -> None:
    view = finished()
    plan = reconcile(replace(view, spec=spec_of(ttlSecondsAfterFinished=ttl)), NOW)
    assert bool(plan.delete) is gone
    if gone:
        assert (plan.delete[0].resource.kind, plan.delete[0].uid) == ("RLHFJob", view.owner.uid)
    if ttl == 60:
        assert plan.wake_at == NOW + timedelta(seconds=60)

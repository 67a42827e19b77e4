"""The way to an attempt: what is refused, what is waited for, what is made."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.intents import Plan, WriteFailure
from rlhf_operator.common.resources import JOBS, PVCS
from rlhf_operator.rlhfjob.reconcile import failure_plan, reconcile
from rlhf_operator.rlhfjob.supported import unsupported_fields
from rlhf_operator.rlhfjob.views import Observed
from rlhf_operator.runs.storage import access_modes
from rlhf_operator.runs.views import ClaimView, References, Refusal

from .factory import (
    DEFAULTS,
    FOUND,
    NOW,
    SPEC,
    attempt,
    condition,
    frozen,
    is_status,
    observed,
    plan_of,
    spec_of,
    status_of,
)

PAIRS = {"configMap": {"name": "prompts", "key": "pairs.jsonl"}, "format": "Pairs"}
EVALUATION = {"dataset": {**SPEC["dataset"]}, "scorers": ["gold"], "minWinRate": 0.55}

OFFLINE = {"ppo": None, "rewards": [], "monitors": []}
DPO = {**OFFLINE, "dpo": {}, "dataset": PAIRS}
KTO = {**OFFLINE, "kto": {}, "dataset": PAIRS}
SFT = {**OFFLINE, "sft": {}, "dataset": {**SPEC["dataset"], "format": "Demonstrations"}}
NOT_YET: list[tuple[dict[str, Any], str]] = [
    ({**DPO, "generation": {"truncation": {"mode": "Mask"}}}, "generation.truncation in DPO"),
    ({**DPO, "rollout": {"gpuMemoryFraction": 0.5}}, "rollout in DPO"),
    ({**DPO, "monitors": ["short"]}, "monitors without evaluation in DPO"),
    ({**DPO, "dpo": {"loss": "IPO", "labelSmoothing": 0.1}}, "dpo.labelSmoothing with loss IPO"),
    ({**KTO, "training": {"epochs": 1, "batchSize": 1}}, "training.batchSize 1 in KTO"),
    ({"rollout": {"engine": "VLLM"}}, "rollout.engine"),
    ({"dataset": {**SPEC["dataset"], "format": "Demonstrations"}}, "ppo with dataset.format Demonstrations"),
    (
        {"ppo": None, "grpo": {}, "dataset": {**SPEC["dataset"], "format": "Demonstrations"}},
        "grpo with dataset.format Demonstrations",
    ),
    ({"compute": {"workers": 2, "zeroStage": 2, "offload": "Optimizer"}}, "compute.offload without GPUs"),
    (
        {
            "warmStart": {
                "dataset": {**SPEC["dataset"], "format": "Demonstrations"},
                "training": {"epochs": 1, "batchSize": 8, "microBatchSize": 2},
            }
        },
        "warmStart.training.microBatchSize other than training.microBatchSize",
    ),
]


@pytest.mark.parametrize(("changes", "field"), NOT_YET, ids=[field for _, field in NOT_YET])
def test_what_is_not_supported_yet_is_named_before_anything_is_made(changes: dict[str, Any], field: str) -> None:
    spec = spec_of(**changes)
    assert list(unsupported_fields(spec)) == [field]
    plan = reconcile(observed(spec, references=None), NOW)
    assert (plan.create, plan.apply, plan.wake_at) == ((), (), None)
    assert is_status(plan, "Stalled") == "True/NotSupportedYet"
    assert field in condition(plan, "Stalled")["message"]


def judge(name: str, url: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "grader": {"llmJudge": {"url": url, "model": "m", "rubric": "factuality", **more}}}


def test_what_is_supported_is_not_refused() -> None:
    graders = [
        {"name": "a", "grader": {"finalAnswer": {}}},
        {"name": "b", "grader": {"regex": {"pattern": "x"}}},
        {"name": "c", "grader": {"jsonSchema": {"schema": {"type": "object"}}}},
        {"name": "d", "grader": {"overlap": {}}},
        {"name": "e", "grader": {"unitTests": {}, "onError": "Fail"}},
        {"name": "f", "grader": {"http": {"url": "http://grader.team.svc/score"}}},
        judge("g", "http://judge.team.svc/v1"),
    ]
    warm = {
        "dataset": {**SPEC["dataset"], "format": "Demonstrations"},
        "training": {"epochs": 1, "batchSize": 8},
    }
    guards = [
        {"name": "kl", "kl": {"max": 10}},
        {"name": "finite", "nonFinite": {}, "action": "Warn"},
        {"name": "entropy", "entropy": {"min": 0.1}, "patience": 5},
        {"name": "flat", "slowConvergence": {"minKL": 0.001}, "patience": 50},
        {"name": "masked", "allMasked": {}},
        {"name": "drift", "logProbDrift": {"max": 1}},
        {"name": "hacking", "rewardHacking": {"minDistinctN": 0.2, "maxLengthRatio": 2}},
    ]
    spec = spec_of(
        scorers=[*SPEC["scorers"], *graders],
        warmStart=warm,
        guards=guards,
        parentArtifact={"pvc": {"claimName": "models", "path": "last"}},
        evaluation={
            **EVALUATION,
            "baselines": ["Base", "WarmStart", "Parent"],
            "everySteps": 4,
            "suites": [{"name": "sums", "dataset": SPEC["dataset"], "scorer": "a", "maxDrop": 0.02}],
            "slices": {"columns": ["category"]},
        },
    )
    assert list(unsupported_fields(spec)) == []
    assert len(reconcile(observed(spec), NOW).create) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"guards": [{"name": "full", "rewardSaturation": {"maxShareAtBound": 0.9}}]},
            "guards[full].rewardSaturation: no reward has a clip",
        ),
        (
            {
                "rewards": [{"scorer": "gold", "normalize": "Running"}],
                "scorers": [*SPEC["scorers"], {"name": "watch", "grader": {"length": {"max": 3}}}],
                "monitors": ["watch"],
                "guards": [{"name": "hacking", "rewardHacking": {"monitor": "watch"}}],
            },
            "guards[hacking].rewardHacking: the reward of gold is normalised by a running mean",
        ),
    ],
)
def test_a_guard_that_no_figure_of_the_run_can_wake_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    plan = reconcile(observed(spec_of(**changes), references=None), NOW)
    assert (plan.create, plan.apply) == ((), ())
    assert is_status(plan, "Stalled") == "True/InvalidSpec"
    assert words in condition(plan, "Stalled")["message"]


def test_the_plan_says_how_far_a_monitor_may_fall() -> None:
    spec = spec_of(
        scorers=[*SPEC["scorers"], {"name": "watch", "grader": {"length": {"max": 3}}}],
        monitors=["watch"],
        guards=[{"name": "hacking", "rewardHacking": {"monitor": "watch"}}],
    )
    plan = frozen(spec).plan
    assert isinstance(plan, TrainingPlan)
    (hacking,) = [guard.reward_hacking for guard in plan.guards if guard.reward_hacking is not None]
    assert hacking.drop == 0.1


def missing(**changes: Any) -> References:
    return replace(FOUND, **changes)


MISSING: list[tuple[RLHFJobSpec, References, str, str]] = [
    (spec_of(), missing(config_maps={"gold": FOUND.config_maps["gold"]}), "ConfigMapNotFound", "ConfigMap prompts"),
    (
        spec_of(),
        missing(config_maps={**FOUND.config_maps, "gold": {}}),
        "KeyNotFound",
        "ConfigMap gold has no key gold.py",
    ),
    (spec_of(), missing(claims={}), "ClaimNotFound", "PersistentVolumeClaim models"),
    (
        spec_of(output={"signing": {"secretRef": {"name": "model-key"}}}),
        FOUND,
        "SecretNotFound",
        "Secret model-key",
    ),
    (
        spec_of(output={"signing": {"secretRef": {"name": "model-key"}}}),
        missing(secrets={"model-key": frozenset({"other"})}),
        "KeyNotFound",
        "Secret model-key has no key key.pem",
    ),
    (
        spec_of(scorers=[*SPEC["scorers"], {"name": "helpful", "rewardModelRef": {"name": "helpful-v2"}}]),
        FOUND,
        "RewardModelNotReady",
        "RewardModel helpful-v2",
    ),
    (
        spec_of(scorers=[*SPEC["scorers"], judge("wise", "http://judge.team.svc/v1", secretRef={"name": "judge-key"})]),
        FOUND,
        "SecretNotFound",
        "Secret judge-key does not exist",
    ),
    (
        spec_of(scorers=[*SPEC["scorers"], judge("wise", "https://api.example.com/v1")]),
        FOUND,
        "HostNotAllowed",
        "scorers[wise].grader.llmJudge.url: host api.example.com is outside the cluster",
    ),
    (
        spec_of(dataset={**SPEC["dataset"], "digest": "sha256:" + "0" * 64}),
        FOUND,
        "DigestMismatch",
        "dataset: ConfigMap prompts",
    ),
]


@pytest.mark.parametrize(("spec", "found", "reason", "words"), MISSING, ids=[entry[3] for entry in MISSING])
def test_what_is_missing_is_named_and_waited_for(spec: RLHFJobSpec, found: References, reason: str, words: str) -> None:
    plan = reconcile(observed(spec, references=found), NOW)
    assert plan.create == ()
    assert is_status(plan, "ReferencesResolved") == f"False/{reason}"
    assert words in condition(plan, "ReferencesResolved")["message"]
    assert is_status(plan, "Reconciling") == f"True/{reason}"
    assert is_status(plan, "Stalled").startswith("False/")
    # It goes on by itself: it is looked at again.
    assert plan.wake_at is not None


def test_texts_go_only_to_hosts_that_are_allowed_at_every_attempt() -> None:
    spec = spec_of(scorers=[*SPEC["scorers"], {"name": "web", "grader": {"http": {"url": "https://g.example.com/s"}}}])
    open_to = replace(DEFAULTS, allowed_hosts=("*.example.com",))
    assert len(reconcile(observed(spec, defaults=open_to), NOW).create) == 2
    # The list is shorter now: a plan that was frozen before sends nothing either.
    plan = reconcile(observed(spec, plan=frozen(spec)), NOW)
    assert plan.create == ()
    assert is_status(plan, "ReferencesResolved") == "False/HostNotAllowed"
    assert "allowedHosts" in condition(plan, "ReferencesResolved")["message"]


def test_a_graders_token_is_mounted_where_its_plan_says_and_only_where_it_trains() -> None:
    spec = spec_of(
        scorers=[*SPEC["scorers"], judge("wise", "http://judge.team.svc/v1", secretRef={"name": "judge-key"})]
    )
    there = missing(secrets={"judge-key": frozenset({"token"})})
    assert plan_of(spec).scorers[-1].token_path == "/rlhf/tokens/judge-key/token"
    job = reconcile(observed(spec, references=there), NOW).create[-1]
    pod = job["spec"]["template"]["spec"]
    volume = next(each for each in pod["volumes"] if each["name"] == "token-0")
    assert volume["secret"] == {
        "secretName": "judge-key",
        "items": [{"key": "token", "path": "token"}],
        "defaultMode": 0o440,
    }
    mounts = pod["containers"][0]["volumeMounts"]
    # A directory, not a subPath: a token that is renewed reaches the pod.
    assert {"name": "token-0", "mountPath": "/rlhf/tokens/judge-key", "readOnly": True} in mounts


def test_everything_that_is_missing_is_named_at_once() -> None:
    plan = reconcile(observed(references=References()), NOW)
    message = condition(plan, "ReferencesResolved")["message"]
    assert all(name in message for name in ("models", "prompts", "gold"))


def test_a_failed_read_is_unknown_and_never_a_guess() -> None:
    unread = missing(config_maps={}, unread={"ConfigMap prompts": "503 etcd"})
    plan = reconcile(observed(references=unread), NOW)
    assert plan.create == ()
    assert is_status(plan, "ReferencesResolved") == "Unknown/ReadFailed"
    assert "503 etcd" in condition(plan, "ReferencesResolved")["message"]


def test_a_claim_that_one_node_alone_can_mount_is_refused_for_several_workers() -> None:
    one_node = missing(claims={"models": ClaimView("models", ("ReadWriteOnce",), "Bound")})
    plan = reconcile(observed(references=one_node), NOW)
    assert plan.create == ()
    assert is_status(plan, "StorageReady") == "False/AccessMode"
    assert "ReadWriteOnce" in condition(plan, "StorageReady")["message"]
    alone = spec_of(compute={"workers": 1})
    assert is_status(reconcile(observed(alone, references=one_node), NOW), "StorageReady") == "True/StorageReady"


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (ClaimView("models", ("ReadOnlyMany",), "Bound"), "AccessMode"),
        (ClaimView("models", ("ReadWriteMany",), "Lost"), "ClaimLost"),
        (ClaimView("models", ("ReadWriteMany",), "Bound", deleting=True), "ClaimTerminating"),
    ],
)
def test_a_claim_that_is_no_good_is_said_so(claim: ClaimView, reason: str) -> None:
    plan = reconcile(observed(references=missing(claims={"models": claim})), NOW)
    assert is_status(plan, "StorageReady") == f"False/{reason}"


def test_an_output_claim_must_be_writable_too() -> None:
    claims = {**FOUND.claims, "out": ClaimView("out", ("ReadOnlyMany",), "Bound")}
    spec = spec_of(output={"pvc": {"claimName": "out", "path": "x"}})
    plan = reconcile(observed(spec, references=missing(claims=claims)), NOW)
    assert is_status(plan, "StorageReady") == "False/AccessMode"
    assert "output.pvc" in condition(plan, "StorageReady")["message"]


@pytest.mark.parametrize(("reclaim", "owned"), [(None, False), ("Retain", False), ("Delete", True)])
def test_a_claim_of_our_own_outlives_its_job_unless_told_otherwise(reclaim: str | None, owned: bool) -> None:
    storage = {"size": "10Gi"} | ({"reclaimPolicy": reclaim} if reclaim else {})
    plan = reconcile(observed(spec_of(storage=storage)), NOW)
    claim = next(each for each in plan.create if each["kind"] == "PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "assistant-storage"
    assert ("ownerReferences" in claim["metadata"]) is owned
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_claim_of_our_own_is_used_again() -> None:
    spec = spec_of(storage={"size": "10Gi"}, compute={"workers": 1})
    assert access_modes(spec) == ["ReadWriteOnce"]
    plan = reconcile(observed(spec, claim=ClaimView("assistant-storage", ("ReadWriteOnce",))), NOW)
    assert [each["kind"] for each in plan.create] == ["ConfigMap", "Job"]


def templated(**template: Any) -> Observed:
    return observed(spec_of(compute={"workers": 2, "template": template}))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"spec": {"containers": [{"name": "trainer", "command": ["sh"]}]}}, "containers[trainer].command"),
        ({"spec": {"containers": [{"name": "trainer", "ports": [{"containerPort": 1}]}]}}, "containers[trainer].ports"),
        ({"spec": {"restartPolicy": "OnFailure"}}, "spec.restartPolicy"),
        ({"metadata": {"labels": {"rlhf.dev/job": "other"}}}, "labels[rlhf.dev/job]"),
        (
            {"spec": {"containers": [{"name": "trainer", "env": [{"name": "RLHF_WORKERS", "value": "9"}]}]}},
            "env[RLHF_WORKERS]",
        ),
        ({"spec": {"containers": [{"image": "x"}]}}, "needs a name"),
    ],
)
def test_a_template_that_sets_what_is_ours_is_refused_by_field(template: dict[str, Any], words: str) -> None:
    plan = reconcile(templated(**template), NOW)
    assert plan.create == ()
    assert is_status(plan, "Stalled") == "True/TemplateInvalid"
    assert words in condition(plan, "Stalled")["message"]


def test_a_template_that_the_api_server_refuses_is_told_in_its_words() -> None:
    view = replace(templated(spec={"priority": "high"}), refusal=Refusal('Job "x" is invalid: spec.priority'))
    plan = reconcile(view, NOW)
    assert plan.create == ()
    assert is_status(plan, "Stalled") == "True/TemplateInvalid"
    assert 'Job "x" is invalid: spec.priority' in condition(plan, "Stalled")["message"]


def test_a_quota_that_is_full_at_the_moment_is_waited_for() -> None:
    full = Refusal("exceeded quota: jobs, used: count/jobs.batch=9, limited: 9", permanent=False)
    plan = reconcile(replace(templated(spec={"priorityClassName": "high"}), refusal=full), NOW)
    assert plan.create == ()
    assert is_status(plan, "Stalled") == "False/WriteRefused"
    assert "exceeded quota" in condition(plan, "Reconciling")["message"]
    assert plan.wake_at is not None


def test_sidecars_and_tolerations_join_ours() -> None:
    view = templated(
        metadata={"annotations": {"team": "nlp"}},
        spec={
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [
                {"name": "logs", "image": "logs:1"},
                {"name": "trainer", "env": [{"name": "PATH", "value": "/env/bin"}]},
            ],
            "volumes": [{"name": "env", "hostPath": {"path": "/env"}}],
        },
    )
    pod = reconcile(view, NOW).create[-1]["spec"]["template"]
    assert [each["name"] for each in pod["spec"]["containers"]] == ["trainer", "logs"]
    trainer = pod["spec"]["containers"][0]
    assert trainer["command"] == ["python", "-m", "rlhf_trainer"]
    names = [each["name"] for each in trainer["env"]]
    assert {"PATH", "RLHF_MASTER_ADDR", "HOME"} <= set(names)
    assert pod["metadata"]["annotations"]["team"] == "nlp"
    assert pod["metadata"]["annotations"]["prometheus.io/scrape"] == "true"


def test_a_suspended_job_makes_nothing() -> None:
    plan = reconcile(observed(spec_of(suspend=True), references=None), NOW)
    assert (plan.create, plan.apply) == ((), ())
    assert is_status(plan, "Suspended") == "True/Suspended"
    assert is_status(plan, "Reconciling").startswith("False/")


def test_a_spec_that_can_not_be_read_is_told() -> None:
    view = replace(observed(), spec=None, spec_problem="training.steps: too many")
    plan = reconcile(view, NOW)
    assert is_status(plan, "Stalled") == "True/InvalidSpec"
    assert "training.steps: too many" in condition(plan, "Stalled")["message"]
    assert [event.reason for event in plan.events] == ["InvalidSpec"]
    complete = {"type": "Complete", "status": "True", "reason": "Complete"}
    over = replace(view, status=status_of(conditions=[complete]), raw_status={"phase": "Complete"})
    assert reconcile(over, NOW) == Plan()


@pytest.mark.parametrize(
    ("failure", "stalled"),
    [
        (WriteFailure("create", JOBS, "team", "assistant-train-1", "Forbidden", "quota", False), "True/WriteRefused"),
        (WriteFailure("create", JOBS, "team", "assistant-train-1", "Invalid", "cpu", False), "True/TemplateInvalid"),
        (WriteFailure("create", PVCS, "team", "assistant-storage", "NameTaken", "b", True), "False/NameTaken"),
        (WriteFailure("create", JOBS, "team", "assistant-train-1", "Timeout", "slow", True), "False/WriteRefused"),
    ],
)
def test_a_refused_write_is_told_and_changes_no_record(failure: WriteFailure, stalled: str) -> None:
    records = [attempt(1, "Crash")]
    raw = {"attempts": [{"number": 1}], "restarts": 1}
    view = observed(plan=frozen(), status=status_of(attempts=records, restarts=1), raw_status=raw)
    plan = failure_plan(view, NOW, failure)
    assert is_status(plan, "Stalled") == stalled
    # What the queue does not bring back by itself comes back by the plan.
    assert plan.wake_at == (None if failure.retriable else NOW + timedelta(minutes=1))
    assert failure.message in condition(plan, "Ready")["message"]
    assert plan.status is not None
    assert plan.status["attempts"] == [{"number": 1}]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_groups_are_run_and_their_block_is_in_the_plan(algorithm: str) -> None:
    spec = spec_of(ppo=None, **{algorithm: {"groupSize": 4, "kl": {"coefficient": 0.1}}})
    plan = reconcile(observed(spec), NOW)
    assert len(plan.create) == 2
    assert plan.status is not None
    assert plan.status["algorithm"] == algorithm.upper()
    block = getattr(frozen(spec).plan, algorithm)
    assert (block.group_size, block.kl.coefficient) == (4, 0.1)


def test_a_penalty_that_is_not_what_it_says_is_warned_of_once() -> None:
    odd = {"groupSize": 4, "scaleRewards": "Group", "kl": {"coefficient": 0.1, "biasCorrection": False}}
    spec = spec_of(ppo=None, grpo=odd)
    first = reconcile(observed(spec), NOW)
    assert is_status(first, "ReferencesResolved") == "True/PlanWarning"
    message = condition(first, "ReferencesResolved")["message"]
    assert "grpo.scaleRewards Group" in message
    assert "grpo.kl.biasCorrection false" in message
    assert [event.type for event in first.events if event.reason == "PlanWarning"] == ["Warning"]
    assert first.status is not None
    again = reconcile(observed(spec, status=status_of(**first.status)), NOW)
    assert is_status(again, "ReferencesResolved") == "True/PlanWarning"
    assert not [event for event in again.events if event.reason == "PlanWarning"]

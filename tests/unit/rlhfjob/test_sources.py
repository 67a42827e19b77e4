"""Inputs from hubs and object stores, and output to them: the plan, what pods mount, what is looked up, status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from rlhf_operator.api.plan import SOURCES_PATH, TrainingPlan
from rlhf_operator.api.result import Progress
from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.run import run_spec
from rlhf_operator.rlhfjob.supported import unsupported_fields
from rlhf_operator.runs import children
from rlhf_operator.runs.children import AttemptArguments, Rendering

from .factory import DIGEST, FOUND, NOW, OWNER, condition, frozen, job, observed, plan_of, pod, running, spec_of
from .factory import verdict as verdict_of

HUB = {"hf": {"repo": "org/base"}}
STORE = {"s3": {"uri": "s3://data/prompts.jsonl", "endpoint": "http://minio:9000"}, "secretRef": {"name": "minio"}}
OUTSIDE: Mapping[str, Any] = {
    "baseModel": {**HUB, "secretRef": {"name": "hub"}},
    "parentArtifact": {"s3": {"uri": "s3://artifacts/v1"}, "secretRef": {"name": "minio"}, "digest": DIGEST},
    "warmStart": {
        "dataset": {"hf": {"repo": "org/rows", "revision": "v2", "path": "sft.parquet"}, "format": "Demonstrations"},
        "training": {"epochs": 1, "batchSize": 8},
    },
    "dataset": {**STORE, "format": "Prompts"},
    "evaluation": {
        "dataset": {**STORE, "format": "Prompts"},
        "scorers": ["gold"],
        "suites": [{"name": "a", "dataset": {**STORE, "format": "Prompts"}, "scorer": "gold"}],
    },
    "output": {"s3": {"uri": "s3://artifacts/assistant"}, "secretRef": {"name": "writer"}},
}
KEYS = frozenset({"accessKeyID", "secretAccessKey"})
SECRETS = {"hub": frozenset({"token"}), "minio": KEYS, "writer": KEYS}


def sources(plan: TrainingPlan) -> dict[str, Any]:
    return {field: each.dump() for field, each in plan.inputs()}


def container(manifest: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


def rendered() -> Rendering:
    spec = spec_of(**OUTSIDE)
    return Rendering(OWNER, run_spec(OWNER, spec), frozen(spec), "IfNotPresent")


def test_every_source_is_supported_and_named_as_people_do() -> None:
    assert list(unsupported_fields(spec_of(**OUTSIDE))) == []
    assert {field: each["ref"] for field, each in sources(plan_of(spec_of(**OUTSIDE))).items()} == {
        "baseModel": "hf://org/base@main",
        "parentArtifact": "s3://artifacts/v1",
        "warmStart.dataset": "hf://datasets/org/rows@v2/sft.parquet",
        "dataset": "s3://data/prompts.jsonl",
        "evaluation.dataset": "s3://data/prompts.jsonl",
        "evaluation.suites[a].dataset": "s3://data/prompts.jsonl",
    }


def test_what_is_fetched_lies_in_a_folder_of_the_plan_and_equal_sources_in_one_place() -> None:
    plan = plan_of(spec_of(**OUTSIDE))
    paths = {field: each["path"] for field, each in sources(plan).items()}
    assert paths["dataset"] == paths["evaluation.dataset"]
    assert len(set(paths.values())) == 4
    folders = {path.rsplit("/", 2)[0] for path in paths.values()}
    assert len(folders) == 1
    assert folders.pop().startswith(f"{SOURCES_PATH}/{OWNER.name}-")
    # Another plan resolves its branches anew.
    other = plan_of(spec_of(**OUTSIDE, training={"steps": 9, "batchSize": 16, "microBatchSize": 4}))
    assert not set(paths.values()) & {each["path"] for each in sources(other).values()}
    assert plan_of(spec_of(**OUTSIDE)).digest() == plan.digest()


def test_a_plan_of_volumes_alone_is_what_it_was() -> None:
    assert "fetch" not in plan_of().canonical()
    assert SOURCES_PATH not in plan_of().canonical()


def test_the_training_pod_mounts_the_keys_of_inputs_and_the_publish_pod_those_of_the_output() -> None:
    train = children.training_job(rendered(), AttemptArguments(1, 4, 0))
    secrets = {
        volume["secret"]["secretName"]: volume["secret"]
        for volume in train["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }
    assert set(secrets) == {"hub", "minio"}
    assert [item["key"] for item in secrets["hub"]["items"]] == ["token"]
    assert [item["key"] for item in secrets["minio"]["items"]] == ["accessKeyID", "secretAccessKey", "sessionToken"]
    assert {each["mountPath"] for each in container(train)["volumeMounts"] if "credentials" in each["name"]} == {
        "/rlhf/credentials/hub",
        "/rlhf/credentials/minio",
    }
    publish = yaml.safe_dump(children.publish_job(rendered(), 1))
    assert "secretName: writer" in publish
    assert "secretName: minio" not in publish
    collect = yaml.safe_dump(children.collect_job(rendered(), 1))
    assert "secretName" not in collect


def test_no_variable_of_a_pod_holds_a_key() -> None:
    train = children.training_job(rendered(), AttemptArguments(1, 4, 0))
    assert not [each for each in container(train)["env"] if "secret" in yaml.safe_dump(each).lower()]


@pytest.mark.parametrize(
    ("secrets", "reason", "words"),
    [
        ({**SECRETS, "hub": frozenset({"other"})}, "KeyNotFound", "Secret hub has no key token"),
        ({**SECRETS, "minio": frozenset({"accessKeyID"})}, "KeyNotFound", "Secret minio has no key secretAccessKey"),
        ({"hub": SECRETS["hub"], "minio": KEYS}, "SecretNotFound", "Secret writer does not exist"),
    ],
)
def test_a_secret_that_lacks_what_it_needs_is_waited_for(
    secrets: dict[str, frozenset[str]], reason: str, words: str
) -> None:
    plan = reconcile(observed(spec_of(**OUTSIDE), references=replace(FOUND, secrets=secrets)), NOW)
    found = condition(plan, "ReferencesResolved")
    assert (found["status"], found["reason"]) == ("False", reason)
    assert words in found["message"]
    assert plan.create == ()


def test_a_session_token_may_be_missing() -> None:
    plan = reconcile(observed(spec_of(**OUTSIDE), references=replace(FOUND, secrets=SECRETS)), NOW)
    assert condition(plan, "ReferencesResolved")["status"] == "True"


def test_the_output_goes_to_the_storage_claim_and_from_there_to_the_store() -> None:
    output = plan_of(spec_of(**OUTSIDE)).output
    assert (output.claim, output.path) == ("models", f"artifacts/{OWNER.name}")
    assert output.s3 is not None
    assert (output.s3.uri, output.credentials) == ("s3://artifacts/assistant", "/rlhf/credentials/writer")


RESOLVED = {"field": "baseModel", "revision": "c" * 40, "digest": DIGEST}


def test_status_shows_the_commit_from_the_first_reading_on() -> None:
    spec = spec_of(baseModel=HUB)
    assert frozen(spec).plan is not None
    reading = Progress.model_validate(
        {
            "planDigest": frozen(spec).digest,
            "attempt": 1,
            "step": 1,
            "steps": 8,
            "sources": [RESOLVED],
            "updatedAt": NOW,
        }
    )
    plan = reconcile(running(spec, progress=reading), NOW)
    assert plan.status is not None
    known = {each["field"]: each for each in plan.status["resolved"]}
    assert known["baseModel"] == {"ref": "hf://org/base@main", **RESOLVED}
    assert "revision" not in known["dataset"]


def test_a_run_that_was_too_short_to_be_read_says_it_at_its_end() -> None:
    spec = spec_of(baseModel=HUB)
    word = verdict_of(planDigest=frozen(spec).digest, sources=[RESOLVED])
    ended = job(1, pod(0, exit_code=0, phase="Succeeded"), pod(1, exit_code=0, phase="Succeeded"), complete=True)
    plan = reconcile(running(spec, attempts=(replace(ended, verdict=word),)), NOW)
    assert plan.status is not None
    assert plan.status["resolved"][0] == {"ref": "hf://org/base@main", **RESOLVED}


def test_a_spec_keeps_its_meaning_in_the_plan() -> None:
    fetch = sources(plan_of(spec_of(**OUTSIDE)))["dataset"]["fetch"]
    assert fetch == {
        "content": "Data",
        "s3": {"uri": "s3://data/prompts.jsonl", "endpoint": "http://minio:9000"},
        "credentials": "/rlhf/credentials/minio",
    }

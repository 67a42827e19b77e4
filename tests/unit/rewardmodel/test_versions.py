"""From a spec to a version that answers, and from one version to the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .driver import Driver, deployment, tag
from .factory import condition, digest_of, is_status


def test_a_trained_version_is_judged_served_and_named(driver: Driver) -> None:
    world = driver.world
    driver.settle()
    (job,) = world.jobs("train")
    assert job["metadata"]["name"] == "helpful-train-1"
    assert job["metadata"]["labels"]["rlhf.dev/plan"] == world.plan_label
    assert is_status(world.status, "Ready") == "False/Starting"
    world.train()
    driver.settle()
    (publish,) = world.jobs("publish")
    assert publish["metadata"]["name"] == f"helpful-publish-1-{world.gate}"
    args = publish["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--settings") + 1] == "/rlhf/settings/settings.json"
    assert ("ConfigMap", f"helpful-gate-{world.gate}") in world.objects
    world.publish("one")
    driver.settle()
    (version,) = world.status["versions"]
    assert version["digest"] == digest_of("one")
    assert (version["gate"], version["accuracy"], version["accuracyInterval"]) == ("Passed", 0.64, [0.57, 0.71])
    assert (version["agreementAlpha"], version["droppedRows"]) == (0.41, 6)
    assert is_status(world.status, "Evaluated") == "True/Evaluated"
    assert is_status(world.status, "Serving") == "False/Starting"
    assert "url" not in world.status
    assert world.leads_to() == tag("one"), "names are known before pods are"
    world.answer()
    driver.settle()
    assert world.status["url"] == "http://helpful.team.svc:80"
    assert world.status["servedVersion"] == world.status["currentVersion"] == digest_of("one")
    assert world.status["versions"][0]["url"] == f"http://helpful-{tag('one')}.team.svc:80"
    assert is_status(world.status, "Serving") == "True/Serving"
    assert is_status(world.status, "Ready") == "True/Ready"
    assert is_status(world.status, "Reconciling") == "False/Ready"
    assert [event.reason for event in driver.events] == [
        "AttemptStarted",
        "Succeeded",
        "Trained",
        "Evaluated",
        "Starting",
        "Serving",
        "Ready",
    ]


def test_the_former_version_serves_until_the_new_one_is_ready_and_passed(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    driver.settle()
    assert [job["metadata"]["name"] for job in world.jobs("train")] == ["helpful-train-2"]
    assert is_status(world.status, "Ready") == "True/Ready"
    assert is_status(world.status, "Reconciling") == "True/Starting"
    world.train()
    driver.settle()
    world.publish("two")
    driver.settle()
    assert world.leads_to() == tag("one")
    assert world.status["currentVersion"] == digest_of("two")
    assert is_status(world.status, "Serving") == "True/Switching"
    assert world.names("Deployment") == sorted([deployment("one"), deployment("two")])
    world.answer()
    driver.settle()
    assert world.leads_to() == tag("two")
    assert deployment("one") in world.names("Deployment"), "clients are still connected to it"
    driver.wait(61)
    assert world.names("Deployment") == [deployment("two")]
    assert deployment("one") not in world.names("Service")
    assert [each["digest"] for each in world.status["versions"]] == [digest_of("two"), digest_of("one")]
    assert "Switched" in [event.reason for event in driver.events]


def test_a_version_that_fails_its_gate_is_named_and_never_served(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"seed": 3}}})
    driver.make("bad", "Failed")
    assert world.status["versions"][0]["gate"] == "Failed"
    assert is_status(world.status, "Evaluated") == "False/GateFailed"
    assert "accuracy 0.510 < minAccuracy 0.55" in condition(world.status, "Evaluated")["message"]
    assert is_status(world.status, "Stalled") == "True/GateFailed"
    assert is_status(world.status, "Ready") == "True/Ready"
    assert world.status["currentVersion"] == digest_of("one")
    assert world.leads_to() == tag("one")
    assert world.names("Deployment") == [deployment("one")]
    resting = driver.wait(3600)
    assert not resting.create
    assert not resting.delete


def test_other_limits_judge_again_and_train_nothing(driver: Driver) -> None:
    world = driver.world
    driver.make("bad", "Failed")
    assert is_status(world.status, "Ready") == "False/GateFailed"
    before = world.gate
    world.change(evaluation={"minAccuracy": 0.5})
    driver.settle()
    assert [job["metadata"]["name"] for job in world.jobs("train")] == ["helpful-train-1"]
    (publish,) = world.jobs("publish")
    assert publish["metadata"]["name"] == f"helpful-publish-1-{world.gate}"
    world.publish("bad", "Passed")
    driver.settle()
    assert [(each["digest"], each["gate"]) for each in world.status["versions"]] == [(digest_of("bad"), "Passed")]
    assert ("ConfigMap", f"helpful-gate-{before}") not in world.objects
    world.answer()
    driver.settle()
    assert is_status(world.status, "Ready") == "True/Ready"


def test_a_version_that_fails_stricter_limits_is_withdrawn(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(evaluation={"minAccuracy": 0.9})
    driver.settle()
    assert world.leads_to() == tag("one"), "until it is judged it is what it was"
    world.publish("one", "Failed")
    driver.settle()
    assert world.leads_to() is None
    assert world.names("Deployment") == []
    assert is_status(world.status, "Ready") == "False/GateFailed"


@pytest.mark.parametrize(
    "change",
    [
        {"serving": {"replicas": 3}},
        {"versionsLimit": 1},
        {"maxRestarts": 1},
        {"timeouts": {"startup": "1h"}},
        {"checkpoints": {"everySteps": 5}},
        {"output": {"alias": "v2"}},
        {"compute": {"resources": {"limits": {"memory": "8Gi"}}}},
    ],
)
def test_what_decides_no_version_trains_nothing(driver: Driver, change: dict[str, object]) -> None:
    driver.made_and_served("one")
    driver.world.change(**change)
    driver.settle()
    assert len(driver.world.jobs("train")) == 1
    assert len(driver.world.jobs("publish")) == 1
    assert driver.world.status["observedGeneration"] == 2


def test_a_change_while_the_former_plan_trains_stops_it_first(driver: Driver) -> None:
    world = driver.world
    driver.settle()
    world.change(source={"train": {"training": {"epochs": 5}}})
    plan = driver.look()
    assert [(delete.name, delete.propagation) for delete in plan.delete] == [("helpful-train-1", "Foreground")]
    assert not plan.create
    assert is_status(plan, "Trained") == "False/PlanSuperseded"
    driver.settle()
    assert [job["metadata"]["name"] for job in world.jobs("train")] == ["helpful-train-2"]
    assert world.status["attemptsMade"] == 2
    assert [each["number"] for each in world.status["run"]["attempts"]] == [2]


def test_going_back_to_a_former_spec_uses_its_version_and_trains_nothing(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    driver.made_and_served("two")
    world.change(source={"train": {"training": {"epochs": 2}}})
    driver.settle()
    assert world.status["currentVersion"] == digest_of("one")
    assert not [job for job in world.jobs("train") if job["metadata"]["name"] == "helpful-train-3"]
    driver.serve("one")
    assert world.leads_to() == tag("one")
    assert world.names("Deployment") == [deployment("one")]


def test_an_upgrade_of_the_operator_and_an_edited_config_map_change_nothing(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    before = repr(sorted(world.objects.items()))
    newer = "registry.example/trainer:2", "registry.example/server:2"
    driver.defaults = replace(driver.defaults, trainer_image=newer[0], server_image=newer[1])
    world.config_maps = {"pairs": {"pairs.jsonl": "other"}}
    driver.wait(60)
    assert repr(sorted(world.objects.items())) == before
    world.change(serving={"replicas": 2})
    driver.settle()
    pod = world.objects["Deployment", deployment("one")]["spec"]["template"]["spec"]
    assert {container["image"] for container in pod["containers"]} == {"registry.example/server:1"}


def test_pinned_version_goes_back_and_is_let_go_again(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    driver.made_and_served("two")
    world.change(pinnedVersion=digest_of("one"))
    driver.settle()
    assert world.leads_to() == tag("two")
    assert world.status["currentVersion"] == digest_of("one")
    driver.serve("one")
    assert world.leads_to() == tag("one")
    assert is_status(world.status, "Serving") == "True/VersionPinned"
    world.change(pinnedVersion=None)
    driver.settle()
    driver.serve("two")
    assert world.leads_to() == tag("two")


@pytest.mark.parametrize("held", [False, True])
def test_a_pin_that_can_not_be_honoured_is_named_and_changes_nothing(driver: Driver, held: bool) -> None:
    world = driver.world
    driver.made_and_served("one")
    if held:
        world.change(source={"train": {"training": {"epochs": 3}}})
        driver.make("bad", "Failed")
    world.change(pinnedVersion=digest_of("bad" if held else "never made"))
    driver.settle()
    assert world.leads_to() == tag("one")
    assert is_status(world.status, "Stalled").startswith("True/")
    assert is_status(world.status, "Ready") == "True/Ready"


def test_pods_that_are_not_ready_in_time_are_named_and_the_former_version_goes_on(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}})
    driver.make("two")
    world.late(deployment("two"))
    driver.settle()
    assert is_status(world.status, "Serving") == "True/VersionNotReady"
    message = condition(world.status, "Serving")["message"]
    assert digest_of("two") in message
    assert "serving.progressDeadline" in message
    assert f"{digest_of('one')} goes on" in message
    assert world.leads_to() == tag("one")
    world.answer()
    driver.settle()
    assert world.leads_to() == tag("two")


def test_versions_beyond_the_limit_leave_status_with_their_plans(driver: Driver) -> None:
    world = driver.world
    world.change(versionsLimit=2)
    for epochs in (2, 3, 4):
        world.change(source={"train": {"training": {"epochs": epochs}}})
        driver.made_and_served(f"version {epochs}")
    assert [each["digest"] for each in world.status["versions"]] == [digest_of("version 4"), digest_of("version 3")]
    assert len([name for name in world.names("ConfigMap") if "-plan-" in name]) == 2


def test_a_run_that_was_given_up_is_tried_again_when_the_spec_changes(driver: Driver) -> None:
    world = driver.world
    driver.settle()
    world.end(world.jobs("train")[0], None, code=78)
    driver.settle()
    assert is_status(world.status, "Trained") == "False/ConfigError"
    assert is_status(world.status, "Stalled") == "True/ConfigError"
    assert world.status["run"]["failed"] == "ConfigError"
    resting = driver.wait(3600)
    assert not resting.create
    world.change(maxRestarts=4)
    driver.settle()
    assert world.jobs("train")[-1]["metadata"]["name"] == "helpful-train-2"
    assert "failed" not in world.status["run"]


def test_what_was_mended_is_read_again_when_a_run_that_was_given_up_begins_again(driver: Driver) -> None:
    world = driver.world
    driver.settle()
    before = world.plan_digest
    world.end(world.jobs("train")[0], None, code=78)
    driver.settle()
    world.config_maps = {"pairs": {"pairs.jsonl": "mended"}}
    world.change(maxRestarts=4)
    driver.settle()
    assert world.plan_digest != before
    assert [name for name in world.names("ConfigMap") if "-plan-" in name] == [f"helpful-plan-{world.plan_label}"]
    driver.world.train()
    driver.settle()
    world.publish("one")
    driver.settle()
    assert world.status["currentVersion"] == digest_of("one")


def test_publishing_that_failed_is_tried_again_when_the_spec_changes(driver: Driver) -> None:
    world = driver.world
    driver.settle()
    world.train()
    driver.settle()
    world.end(world.jobs("publish")[0], None, code=70)
    driver.settle()
    assert is_status(world.status, "Stalled") == "True/PublishFailed"
    first = world.jobs("publish")[0]["metadata"]["uid"]
    world.change(maxRestarts=4)
    driver.settle()
    (again,) = world.jobs("publish")
    assert again["metadata"]["uid"] != first
    assert len(world.jobs("train")) == 1


def test_a_lost_status_is_found_again_without_another_training(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.status = {}
    driver.settle()
    assert world.status["currentVersion"] == digest_of("one")
    assert world.leads_to() == tag("one")
    assert world.names("Deployment") == [deployment("one")]
    assert len(world.jobs("train")) == 1


def test_suspend_stops_the_training_and_leaves_what_serves(driver: Driver) -> None:
    world = driver.world
    driver.made_and_served("one")
    world.change(source={"train": {"training": {"epochs": 3}}}, suspend=True)
    driver.settle()
    assert world.jobs("train") == []
    assert world.leads_to() == tag("one")
    assert is_status(world.status, "Trained") == "False/Suspended"
    assert is_status(world.status, "Ready") == "True/Ready"
    world.change(suspend=False)
    driver.settle()
    assert len(world.jobs("train")) == 1


def test_what_is_not_supported_is_named(driver: Driver) -> None:
    driver.world.change(source={"train": {"training": {"epochs": None, "steps": 8}}})
    driver.settle()
    assert is_status(driver.world.status, "Stalled") == "True/NotSupportedYet"
    assert "source.train.training.steps" in driver.world.status["message"]


def test_without_an_evaluation_block_every_version_is_used(driver: Driver) -> None:
    driver.world.change(evaluation=None)
    driver.make("one", "NotEvaluated")
    driver.serve("one")
    assert is_status(driver.world.status, "Evaluated") == "False/NotEvaluated"
    assert is_status(driver.world.status, "Ready") == "True/Ready"

"""What holds for every history: one version is served, never one that failed; pins and users are honoured."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .driver import Driver, deployment
from .factory import digest_of, is_status
from .test_serving import job, uses


class Histories(RuleBasedStateMachine):
    """Users edit, trainers end, pods come and go, jobs use versions; the operator looks after each."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.world = self.driver.world
        self.led_to: str | None = None
        self.served = False

    @initialize()
    def begin(self) -> None:
        self.driver.settle()

    @rule(epochs=st.integers(1, 4))
    def retrain(self, epochs: int) -> None:
        self.world.change(source={"train": {"training": {"epochs": epochs}}})
        self.driver.look()

    @rule(accuracy=st.sampled_from([0.5, 0.6, 0.7]))
    def other_limits(self, accuracy: float) -> None:
        self.world.change(evaluation={"minAccuracy": accuracy})
        self.driver.look()

    @rule()
    def trained(self) -> None:
        running = [each for each in self.world.jobs("train") if not each["status"].get("conditions")]
        if running and (self.world.status.get("run") or {}).get("planDigest"):
            self.world.train()
        self.driver.look()

    @rule(gate=st.sampled_from(["Passed", "Failed"]))
    def judged(self, gate: str) -> None:
        waiting = [each for each in self.world.jobs("publish") if not each["status"].get("conditions")]
        if waiting:
            # The same plan gives the same content, whatever the limits.
            self.world.publish(f"of {self.world.plan_digest}", gate)
        self.driver.look()

    @rule(epochs=st.integers(1, 4), gate=st.sampled_from(["Passed", "Passed", "Failed"]))
    def a_version_is_made(self, epochs: int, gate: str) -> None:
        self.world.change(source={"train": {"training": {"epochs": epochs}}})
        self.driver.settle()
        self.trained()
        self.driver.settle()
        self.judged(gate)

    @rule(share=st.sampled_from(["all", "some"]))
    def answers(self, share: str) -> None:
        names = self.world.names("Deployment")
        for name in names if share == "all" else names[:1]:
            self.world.answer(name)
        self.driver.look()

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def time_passes(self, seconds: int) -> None:
        self.world.later(seconds=seconds)
        self.driver.look()

    @precondition(lambda self: self.world.status.get("versions"))
    @rule(data=st.data())
    def pin(self, data: Any) -> None:
        held = [each["digest"] for each in self.world.status["versions"]]
        self.world.change(pinnedVersion=data.draw(st.sampled_from([None, *held, digest_of("never made")])))
        self.driver.look()

    @precondition(lambda self: self.world.status.get("servedVersion"))
    @rule()
    def a_job_freezes_its_plan(self) -> None:
        version = self.world.status["servedVersion"]
        status = {"rewardModels": [{"name": "helpful", "version": version, "url": "http://x"}]}
        self.world.rlhf_jobs["policy"] = job(status=status)
        self.driver.look()

    @rule()
    def the_job_ends(self) -> None:
        if self.world.rlhf_jobs:
            complete = {"conditions": [{"type": "Complete", "status": "True"}]}
            self.world.rlhf_jobs["policy"]["status"] |= complete
        self.driver.look()

    @rule(enabled=st.booleans())
    def switch_serving(self, enabled: bool) -> None:
        self.world.change(serving={"enabled": enabled})
        self.driver.look()

    @rule(writes=st.integers(0, 8))
    def the_operator_is_killed(self, writes: int) -> None:
        self.driver.die_after(writes)
        self.driver.look()

    @rule()
    def settled(self) -> None:
        self.driver.settle()
        plan = self.driver.look()
        assert plan.status == self.world.status, "a look that changes nothing writes nothing"

    @rule(follow=st.booleans())
    def endpoints_lag(self, follow: bool) -> None:
        self.world.frozen_slices = None if follow else self.world.slices()
        self.driver.look()

    @invariant()
    def what_is_served_is_one_version_that_did_not_fail(self) -> None:
        versions = {each["digest"]: each for each in self.world.status.get("versions", ())}
        served = self.world.status.get("servedVersion")
        leads_to = self.world.leads_to()
        named = {served, self.world.status.get("currentVersion")} - {None}
        assert all(versions[digest]["gate"] != "Failed" for digest in named)
        if leads_to is not None:
            assert leads_to in {digest.removeprefix("sha256:")[:10] for digest in named}
        elif served is not None:
            raise AssertionError("status names a version that the stable Service does not lead to")

    @invariant()
    def ready_is_said_only_of_a_service_that_leads_to_a_pod(self) -> None:
        if is_status(self.world.status, "Serving") == "True/Serving":
            served = self.world.status["servedVersion"].removeprefix("sha256:")[:10]
            ready = [each["metadata"]["labels"] for each in self.driver.saw if each["endpoints"]]
            led = {(each["kubernetes.io/service-name"], each["rlhf.dev/version"]) for each in ready}
            assert ("helpful", served) in led

    @invariant()
    def traffic_moves_only_to_pods_that_are_ready(self) -> None:
        before, self.led_to = self.led_to, self.world.leads_to()
        served, self.served = self.served, "servedVersion" in self.world.status
        if self.led_to is None or before is None or self.led_to == before or not served:
            # Where nothing was served, the Service may be there before the pods.
            return
        failed = [each["digest"] for each in self.world.status["versions"] if each["gate"] == "Failed"]
        if any(digest.removeprefix("sha256:").startswith(before) for digest in failed):
            # Away from one that failed since it moves at once.
            return
        found = self.world.objects["Deployment", f"helpful-{self.led_to}"]
        assert 0 < found["spec"]["replicas"] <= found["status"].get("availableReplicas", 0)

    @invariant()
    def a_pin_that_can_be_honoured_is(self) -> None:
        pinned = self.world.spec.get("pinnedVersion")
        versions = {each["digest"]: each for each in self.world.status.get("versions", ())}
        if pinned in versions and versions[pinned]["gate"] != "Failed":
            assert self.world.status["currentVersion"] == pinned

    @invariant()
    def what_an_unfinished_job_uses_keeps_its_service_and_its_pods(self) -> None:
        for each in self.world.rlhf_jobs.values():
            if each["status"].get("conditions"):
                continue
            for use in each["status"]["rewardModels"]:
                name = f"helpful-{use['version'].removeprefix('sha256:')[:10]}"
                assert name in self.world.names("Service")
                assert name in self.world.names("Deployment")

    @invariant()
    def no_two_runs_at_once(self) -> None:
        running = [each for each in self.world.jobs("train") if not each["status"].get("conditions")]
        assert len(running) <= 1


Histories.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestHistories = Histories.TestCase


def test_names_of_helpers_agree() -> None:
    assert deployment("one") == f"helpful-{digest_of('one').removeprefix('sha256:')[:10]}"
    assert uses("one")["rewardModels"][0]["version"] == digest_of("one")

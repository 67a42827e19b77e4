"""A rollout on a real API server: first revision, steps, promotion, refusals, commands, what others do to it."""

from __future__ import annotations

import pytest

from opkit.api import Object, condition
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    HTTPROUTES,
    PODS,
    POLICYROLLOUTS,
    RLHFJOBS,
    SECRETS,
    SERVICES,
)

from .conftest import World, artifact, variant

pytestmark = pytest.mark.timeout(300)

QUICK = {"steps": [], "bake": "1s", "scaleDownDelay": "1s"}


def test_the_first_revision_gets_all_traffic_once_its_pods_are_ready(world: World) -> None:
    world.apply("assistant")
    status = world.serves("assistant", sha256_of(b"one"))
    stable = variant(status, "Stable")
    assert stable["ref"] == "pvc://models/policies/one"
    assert world.weights("assistant") == {stable["revision"]: 100}
    assert world.leads_to("assistant") == stable["revision"]
    assert world.deployments("assistant") == {stable["revision"]: 2}
    # As the node controller does when it learns late of a pod on a node that it hears nothing of.
    pod = world.api.list(PODS, world.namespace)[0]["metadata"]["name"]
    lost = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-31T12:00:00Z"}
    world.api.patch(PODS, world.namespace, pod, {"status": {"conditions": [lost]}}, "status")
    world.api.eventually(PODS, world.namespace, pod, lambda seen: seen["status"]["conditions"][-1]["status"] == "True")
    world.until_condition("assistant", "RouteAccepted", "True", "RouteAccepted")
    status = world.until_condition("assistant", "Ready", "True", "Ready")
    assert condition(status, "Promoted")["status"] == "True"
    assert status["phase"] == "Serving"


def test_a_new_artifact_goes_through_every_step_and_no_pod_restarts(world: World) -> None:
    world.apply("assistant")
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    world.patch("assistant", model={"artifact": artifact("two")})
    seen: list[tuple[str, int, int]] = []

    def done(status: Object) -> bool:
        candidate, step = variant(status, "Candidate"), status.get("step") or {}
        if candidate:
            now = (step.get("name", ""), candidate["weight"], candidate["mirrorPercent"])
            if now not in seen:
                seen.append(now)
        return variant(status, "Stable").get("digest") == sha256_of(b"two") and not candidate

    status = world.until("assistant", done, 90)
    two = variant(status, "Stable")["revision"]
    assert seen == [("starting", 0, 0), ("shadow", 0, 20), ("ten", 10, 20), ("half", 50, 0), ("bake", 100, 0)]
    assert world.weights("assistant") == {two: 100}
    assert world.leads_to("assistant") == two
    (first, second) = reversed(status["history"])
    assert (first["revision"], first["outcome"]) == (one, "Promoted")
    assert (second["revision"], second["outcome"]) == (two, "Promoted")
    assert condition(status, "Promoted")["status"] == "True"
    # The former revision goes to sleep after its delay, and stays on record.
    world.wait("the former revision's pods to go", lambda: world.deployments("assistant") == {one: 0, two: 2})
    made = world.api.list(CONTROLLERREVISIONS, world.namespace, "rlhf.dev/rollout=assistant")
    assert {each["data"]["revision"] for each in made} == {one, two}


def test_the_route_that_a_candidate_mirrors_by_names_its_second_port_and_never_models_or_feedback(world: World) -> None:
    steps = [{"name": "shadow", "mirror": {"percent": 20}, "hold": {"minimum": "1h"}}]
    world.apply("assistant", strategy={"steps": steps, "scaleDownDelay": "1s"})
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    world.patch("assistant", model={"artifact": artifact("two")})
    status = world.until("assistant", lambda seen: (seen.get("step") or {}).get("startedAt") and seen["step"]["name"])
    two = variant(status, "Candidate")["revision"]
    world.until("assistant", lambda seen: (seen.get("step") or {}).get("name") == "shadow")
    route = world.route("assistant")
    assert route is not None
    traffic, rest = route["spec"]["rules"]
    assert traffic["filters"] == [
        {
            "type": "RequestMirror",
            "requestMirror": {
                "backendRef": {"group": "", "kind": "Service", "name": f"assistant-{two}", "port": 8001},
                "percent": 20,
            },
        }
    ]
    for backend in traffic["backendRefs"]:
        assert backend["filters"][0]["requestHeaderModifier"]["set"] == [{"name": "x-rlhf-served", "value": one}]
    assert traffic["timeouts"] == rest["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert "filters" not in rest
    assert [each["path"]["value"] for each in rest["matches"]] == ["/v1/models", "/v1/feedback"]


def test_a_route_that_the_gateway_refuses_moves_no_step_and_says_so(world: World) -> None:
    world.apply("assistant", strategy=QUICK)
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    world.gateway.refuses = "no listener of this gateway allows the route"
    world.patch("assistant", model={"artifact": artifact("two")})
    status = world.until_condition("assistant", "RouteAccepted", "False", "RouteRefused")
    assert "no listener of this gateway allows the route" in condition(status, "RouteAccepted")["message"]
    assert world.weights("assistant") == {one: 100}
    world.gateway.refuses = ""
    world.serves("assistant", sha256_of(b"two"), 90)


def test_a_job_that_is_deleted_takes_nothing_away_and_the_newest_accepted_one_is_followed(world: World) -> None:
    digest = world.job("one", "one")
    world.apply("assistant", model={"rlhfJobSelector": {"matchLabels": {"line": "assistant"}}}, strategy=QUICK)
    stable = variant(world.serves("assistant", digest), "Stable")
    world.api.delete(RLHFJOBS, world.namespace, "one")
    world.wait("the job to go", lambda: world.api.get(RLHFJOBS, world.namespace, "one") is None)
    # A change makes a look certain to have happened after the deletion.
    world.patch("assistant", revisionHistoryLimit=6)
    generation = (world.api.get(POLICYROLLOUTS, world.namespace, "assistant") or {})["metadata"]["generation"]
    status = world.until("assistant", lambda seen: seen.get("observedGeneration") == generation)
    assert variant(status, "Stable")["revision"] == stable["revision"]
    assert condition(status, "Ready")["status"] == "True"
    world.job("failed", "worse", gate="NotEvaluated", at="2026-02-02T12:00:00Z")
    newest = world.job("two", "two", at="2026-02-01T12:00:00Z")
    world.serves("assistant", newest)


def test_an_ungated_artifact_is_served_only_when_the_spec_admits_it(world: World) -> None:
    digest = world.job("one", "one", gate="NotEvaluated")
    world.apply("assistant", model={"rlhfJobRef": {"name": "one"}}, strategy=QUICK)
    status = world.until_condition("assistant", "Ready", "False", "NotEvaluated")
    assert "allowUngated" in condition(status, "Ready")["message"]
    assert world.deployments("assistant") == {}
    world.patch("assistant", model={"allowUngated": True})
    world.serves("assistant", digest)


def test_what_an_orphaning_deletion_leaves_is_taken_over_by_its_successor(world: World) -> None:
    # Spelt otherwise by the server than by us: it must not take that for a change of the record.
    world.apply("assistant", strategy=QUICK, serving={"drainTimeout": "1s", "args": ["--x=<&> é\u2028"]})
    status = world.serves("assistant", sha256_of(b"one"))
    revision = variant(status, "Stable")["revision"]
    pods = {pod["metadata"]["uid"] for pod in world.api.list(PODS, world.namespace)}
    world.api.delete(POLICYROLLOUTS, world.namespace, "assistant", "Orphan")
    world.wait(
        "the orphans to be let go",
        lambda: (
            world.api.get(POLICYROLLOUTS, world.namespace, "assistant") is None
            and not (world.route("assistant") or {"metadata": {}})["metadata"].get("ownerReferences")
        ),
    )
    made = world.apply("assistant", strategy=QUICK, serving={"drainTimeout": "1s", "args": ["--x=<&> é\u2028"]})
    status = world.serves("assistant", sha256_of(b"one"))
    assert variant(status, "Stable")["revision"] == revision
    uid = made["metadata"]["uid"]
    for resource in (HTTPROUTES, DEPLOYMENTS, SERVICES, CONTROLLERREVISIONS, CONFIGMAPS, SECRETS):
        for each in world.api.list(resource, world.namespace, "rlhf.dev/rollout=assistant"):
            name = f"{resource} {each['metadata']['name']}"
            assert [o["uid"] for o in each["metadata"].get("ownerReferences") or ()] == [uid], name
    assert {pod["metadata"]["uid"] for pod in world.api.list(PODS, world.namespace)} == pods


def test_a_paused_route_is_left_as_it_is(world: World) -> None:
    world.apply("assistant", strategy=QUICK)
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    paused = {"metadata": {"annotations": {"rlhf.dev/paused": "true"}}}
    before = world.api.patch(HTTPROUTES, world.namespace, "assistant", paused)
    world.patch("assistant", model={"artifact": artifact("two")})
    world.until("assistant", lambda seen: "rlhf.dev/paused" in seen.get("message", ""))
    route = world.route("assistant")
    assert route is not None
    assert (route["spec"], world.weights("assistant")) == (before["spec"], {one: 100})
    world.api.patch(HTTPROUTES, world.namespace, "assistant", {"metadata": {"annotations": {"rlhf.dev/paused": None}}})
    world.serves("assistant", sha256_of(b"two"), 90)


def test_who_turns_the_weights_by_hand_is_turned_back(world: World) -> None:
    world.apply("assistant", strategy={"steps": [{"name": "ten", "weight": 10, "hold": {"minimum": "1h"}}]})
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    world.patch("assistant", model={"artifact": artifact("two")})
    status = world.until("assistant", lambda seen: variant(seen, "Candidate").get("weight") == 10)
    two = variant(status, "Candidate")["revision"]
    route = world.route("assistant")
    assert route is not None
    for weight, backend in zip((1, 99), route["spec"]["rules"][0]["backendRefs"], strict=True):
        backend["weight"] = weight
    world.api.patch(HTTPROUTES, world.namespace, "assistant", {"spec": route["spec"]})
    world.wait("the weights to be as decided", lambda: world.weights("assistant") == {one: 90, two: 10})


def test_abort_sends_the_candidate_back_and_a_resync_does_not_try_it_again(world: World) -> None:
    world.apply("assistant", strategy={"steps": [{"name": "ten", "weight": 10, "hold": {"minimum": "1h"}}]})
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    world.patch("assistant", model={"artifact": artifact("two")})
    status = world.until("assistant", lambda seen: variant(seen, "Candidate").get("weight") == 10)
    two = variant(status, "Candidate")["revision"]
    world.command("assistant", f"c1 abort {two} ten alice")
    status = world.until("assistant", lambda seen: seen.get("rejected"))
    assert (status["rejected"][0]["revision"], status["rejected"][0]["reason"]) == (two, "Aborted")
    assert status["lastCommand"]["by"].startswith("alice")
    assert world.weights("assistant") == {one: 100}
    world.patch("assistant", revisionHistoryLimit=6)
    status = world.until_condition("assistant", "Stalled", "True", "Rejected")
    assert f"retry {two}" in status["message"]
    assert world.weights("assistant") == {one: 100}


def test_a_template_that_the_server_refuses_is_told_in_its_words_and_what_serves_goes_on(world: World) -> None:
    world.apply("assistant", strategy=QUICK)
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    world.patch(
        "assistant", serving={"template": {"spec": {"containers": [{"name": "server", "imagePullPolicy": "?"}]}}}
    )
    status = world.until("assistant", lambda seen: "imagePullPolicy" in seen.get("message", ""))
    assert condition(status, "Ready")["status"] == "True"
    assert world.weights("assistant") == {one: 100}


def test_the_text_of_a_prompt_is_part_of_the_revision_and_replicas_are_not(world: World) -> None:
    meta = {"name": "chat", "namespace": world.namespace}
    world.api.create(CONFIGMAPS, {"metadata": meta, "data": {"system.txt": "Be brief."}})
    serving = {"systemPrompt": {"configMap": {"name": "chat", "key": "system.txt"}}, "drainTimeout": "1s"}
    world.apply("assistant", serving=serving, strategy=QUICK)
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    texts = world.api.get(CONFIGMAPS, world.namespace, f"assistant-{one}")
    assert texts is not None
    assert texts["data"] == {"system-prompt.txt": "Be brief."}
    world.patch("assistant", serving={"replicas": 3})
    world.wait("three pods of the same revision", lambda: world.deployments("assistant") == {one: 3})
    world.api.patch(CONFIGMAPS, world.namespace, "chat", {"data": {"system.txt": "Be kind."}})
    # Nobody watches the user's ConfigMaps: the next look sees it.
    world.patch("assistant", revisionHistoryLimit=6)
    status = world.until("assistant", lambda seen: variant(seen, "Stable").get("revision") not in (None, one))
    two = variant(status, "Stable")["revision"]
    texts = world.api.get(CONFIGMAPS, world.namespace, f"assistant-{two}")
    assert texts is not None
    assert texts["data"] == {"system-prompt.txt": "Be kind."}

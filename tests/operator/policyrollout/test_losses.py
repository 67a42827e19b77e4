"""A candidate with traffic loses its pods, or the API server what the route says: what users get, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from opkit.api import Api, ApiError, Object, condition
from opkit.process import wait_for
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import CRDS, HTTPROUTES, PODS

from .conftest import World, artifact, variant

pytestmark = pytest.mark.timeout(300)

TEN = {"name": "ten", "weight": 10, "hold": {"minimum": "1h"}}
SHADOW = {"name": "shadow", "mirror": {"percent": 20}, "hold": {"minimum": "1h"}}
HTTPROUTE_CRD = "httproutes.gateway.networking.k8s.io"


def candidate(world: World, step: dict[str, Any], holds: Callable[[Object], Any]) -> tuple[str, str]:
    """One serves, two is in a long step; returns both revisions once something holds of the status."""
    world.apply("assistant", strategy={"steps": [step], "scaleDownDelay": "1s"})
    one = variant(world.serves("assistant", sha256_of(b"one")), "Stable")["revision"]
    world.patch("assistant", model={"artifact": artifact("two")})
    return one, variant(world.until("assistant", holds), "Candidate")["revision"]


def at_ten(seen: Object) -> bool:
    """Whether the candidate has its ten percent."""
    return variant(seen, "Candidate").get("weight") == 10


def test_a_candidate_killed_for_memory_under_traffic_goes_back_and_the_kubelets_word_is_told(world: World) -> None:
    one, two = candidate(world, TEN, at_ten)
    world.crash(two)
    status = world.until_condition("assistant", "RolledBack", "True", "Crashing")
    assert world.weights("assistant") == {one: 100}
    assert "OOMKilled (exit code 137)" in status["history"][0]["message"], status["history"][0]
    assert "at 10 %" in status["history"][0]["message"], status["history"][0]


def test_a_drained_node_takes_weight_from_the_candidate_until_its_pods_are_back_and_blames_nobody(world: World) -> None:
    one, two = candidate(world, TEN, at_ten)
    world.kubelet.unready = frozenset({two})
    for pod in world.pods_of(two):
        world.api.delete(PODS, world.namespace, pod["metadata"]["name"])
    seen = world.until("assistant", lambda seen: variant(seen, "Candidate").get("weight") == 0)
    assert world.weights("assistant") == {one: 100}
    assert not seen.get("rejected")
    assert "0 of 2 pods are ready" in seen["step"]["message"], seen["step"]
    world.kubelet.unready = frozenset()
    world.until("assistant", at_ten)
    assert world.weights("assistant") == {one: 90, two: 10}


@contextmanager
def without_percent(api: Api) -> Iterator[None]:
    """The API server refuses the percentage of a mirror, as with the CRDs of Gateway API before 1.3."""
    found = api.get(CRDS, None, HTTPROUTE_CRD)
    assert found is not None
    versions = found["spec"]["versions"]

    def install(some: list[Any], wanted: str) -> None:
        api.patch(CRDS, None, HTTPROUTE_CRD, {"spec": {"versions": some}})
        wait_for("the schema to be in force", lambda: applied(api) == wanted)

    install([pruned(each) for each in versions], "refused")
    try:
        yield
    finally:
        install(versions, "kept")


def applied(api: Api) -> str:
    """What becomes of the percentage of a route that is applied now: dropped for a moment while schemas change."""
    mirror = {"backendRef": {"name": "any", "port": 80}, "percent": 20}
    rules = [{"filters": [{"type": "RequestMirror", "requestMirror": mirror}]}]
    route = {"apiVersion": HTTPROUTES.api_version, "kind": HTTPROUTES.kind, "metadata": {"name": "probe"}}
    path = f"{HTTPROUTES.path('default', 'probe')}?dryRun=All&fieldManager=probe"
    try:
        stored = api.call("PATCH", path, route | {"spec": {"rules": rules}}, "application/apply-patch+yaml")
    except ApiError as error:
        if "field not declared in schema" in str(error):
            return "refused"
        raise
    return "kept" if "percent" in stored["spec"]["rules"][0]["filters"][0]["requestMirror"] else "dropped"


def pruned(schema: Any) -> Any:
    """A schema without the fields `percent` and `fraction`, and without the rules that compare the two."""
    if isinstance(schema, list):
        return [pruned(each) for each in schema if not (isinstance(each, dict) and "percent" in each.get("rule", ""))]
    if isinstance(schema, dict):
        return {key: pruned(value) for key, value in schema.items() if key not in ("percent", "fraction")}
    return schema


def test_a_cluster_whose_crd_drops_the_percentage_mirrors_nothing_and_says_what_to_do(world: World) -> None:
    with without_percent(world.api):
        one, _ = candidate(world, SHADOW, lambda seen: "requestMirror.percent" in seen.get("message", ""))
        status = world.until_condition("assistant", "Reconciling", "True", "WriteRefused")
        assert "HTTPRoute is older than this field: update it" in status["message"]
        assert condition(status, "Ready")["status"] == "True", "what serves goes on"
        route = world.route("assistant")
        assert route is not None
        assert all("filters" not in rule for rule in route["spec"]["rules"]), "every request would be copied"
        assert world.weights("assistant") == {one: 100}
    world.until("assistant", lambda seen: variant(seen, "Candidate").get("mirrorPercent") == 20)

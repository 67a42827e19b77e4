"""Traffic as an HTTPRoute and back: nothing is lost on the way, and what a server makes of it is seen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.policyrollout.gateway import mirror_support
from rlhf_operator.policyrollout.route import LEAST, http_route, places, read_traffic, route_view
from rlhf_operator.policyrollout.views import BAKE, Rejection, Support, Traffic

from .makings import OWNER, spec_of

STABLE, CANDIDATE = "aaaaaaaaaa", "bbbbbbbbbb"
AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
ALONE = Traffic(STABLE)
TEN = Traffic(STABLE, CANDIDATE, "ten", 1, goal=10, weight=10, mirror=20)
STAFF = Traffic(STABLE, CANDIDATE, "staff", 2, goal=10, weight=10, headers=(("x-group", "staff", "Exact"),))
ALL = Traffic(STABLE, CANDIDATE, BAKE, 3, goal=100, weight=100)
REJECTED = Traffic(STABLE, rejected=(Rejection(CANDIDATE, "AnalysisFailed", "RewardWinRate 0.41", AT),))

MATCHING = {"name": "staff", "match": {"headers": [{"name": "x-group", "value": "staff"}]}}

CASES = {"alone": ALONE, "ten": TEN, "staff": STAFF, "all": ALL, "rejected": REJECTED}


@pytest.mark.parametrize("name", CASES)
def test_route(name: str, golden: Callable[[str, str], None]) -> None:
    route = http_route(OWNER, spec_of(), CASES[name])
    golden(f"route-{name}.yaml", yaml.safe_dump(route, sort_keys=False, width=120))


@given(
    st.builds(
        Traffic,
        stable=st.just(STABLE),
        candidate=st.just(CANDIDATE),
        step=st.sampled_from(["starting", "a step", "bake", "ten"]),
        index=st.integers(-1, 20),
        goal=st.integers(0, 100),
        weight=st.integers(0, 100),
        mirror=st.integers(0, 100),
        headers=st.lists(st.tuples(st.just("x-a"), st.text(min_size=1), st.just("Exact")), max_size=3).map(tuple),
        rejected=st.lists(
            st.builds(Rejection, st.text("0123456789abcdef", min_size=10), st.just("Aborted"), st.text(), st.just(AT)),
            max_size=10,
        ).map(tuple),
    )
)
def test_what_is_written_is_what_is_read(traffic: Traffic) -> None:
    route = http_route(OWNER, spec_of(), traffic)
    cut = tuple(replace(each, message=each.message[:299]) for each in traffic.rejected)
    found = read_traffic(route, OWNER)
    assert found is not None
    assert replace(found, rejected=()) == replace(traffic, rejected=())
    assert [each.revision for each in found.rejected] == [each.revision for each in cut]
    for rule in route["spec"]["rules"]:
        assert sum(each["weight"] for each in rule["backendRefs"]) == 100
        assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_a_mirror_names_the_second_port_and_only_the_weighted_rule_has_one() -> None:
    traffic, rest = http_route(OWNER, spec_of(), TEN)["spec"]["rules"]
    (mirror,) = traffic["filters"]
    backend = {"name": f"assistant-{CANDIDATE}", "port": 8001}
    assert mirror == {"type": "RequestMirror", "requestMirror": {"backendRef": backend, "percent": 20}}
    assert "filters" not in rest


def test_every_backend_overwrites_the_header_that_says_who_served() -> None:
    rule = http_route(OWNER, spec_of(), TEN)["spec"]["rules"][0]
    said = [each["filters"][0]["requestHeaderModifier"]["set"] for each in rule["backendRefs"]]
    assert said == [[{"name": "x-rlhf-served", "value": each}] for each in (STABLE, CANDIDATE)]


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_gateway_that_has_read_half_of_a_change_finds_every_place_and_gives_nobody_more(old: int, new: int) -> None:
    """Whose place and which weight may arrive apart: each mixture of two routes lies between them."""
    before, after = (places(replace(TEN, weight=weight)) for weight in (old, new))
    assert all(weight > 0 for _, weight in (*before, *after)), "a gateway drops a place without weight"
    for whose, weights in ((before, after), (after, before)):
        share = sum(w for (name, _), (_, w) in zip(whose, weights, strict=True) if name == CANDIDATE)
        assert share <= max(old, new, LEAST)


def test_rules_stay_where_they_are_from_step_to_step() -> None:
    for spec in (spec_of(), spec_of(strategy={"steps": [MATCHING]})):
        seen = [http_route(OWNER, spec, traffic)["spec"]["rules"] for traffic in (ALONE, TEN, ALL, REJECTED)]
        assert len({tuple(len(rule["backendRefs"]) for rule in rules) for rules in seen}) == 1


def test_a_rule_for_chosen_requests_is_there_before_its_step_and_like_the_others() -> None:
    traffic, _, chosen = http_route(OWNER, spec_of(strategy={"steps": [MATCHING]}), TEN)["spec"]["rules"]
    assert chosen["matches"][0]["headers"] == [{"name": "x-group", "value": "staff", "type": "Exact"}]
    assert (chosen["backendRefs"], chosen["filters"]) == (traffic["backendRefs"], traffic["filters"])


def test_chosen_requests_go_to_the_candidate_whatever_the_weight() -> None:
    *_, rule = http_route(OWNER, spec_of(), STAFF)["spec"]["rules"]
    assert {each["name"] for each in rule["backendRefs"]} == {f"assistant-{CANDIDATE}"}
    assert all(each["headers"] == [{"name": "x-group", "value": "staff", "type": "Exact"}] for each in rule["matches"])


def test_a_users_matches_are_passed_through_and_their_own_paths_kept() -> None:
    matches = [{"headers": [{"name": "x-team", "value": "a"}]}, {"path": {"type": "Exact", "value": "/own"}}]
    route = {"parentRefs": [{"name": "public"}], "paths": ["/v1/completions"], "matches": matches}
    rule = http_route(OWNER, spec_of(route=route), ALONE)["spec"]["rules"][0]
    assert rule["matches"] == [
        {"path": {"type": "PathPrefix", "value": "/v1/completions"}, "headers": [{"name": "x-team", "value": "a"}]},
        {"path": {"type": "Exact", "value": "/own"}},
    ]


def stored(traffic: Traffic, **conditions: str) -> Any:
    """The route as a server has it, and what a gateway says of its generation."""
    route = copy.deepcopy(http_route(OWNER, spec_of(), traffic))
    route["metadata"] |= {"uid": "uid", "generation": 7}
    said = [
        {"type": kind, "status": status, "observedGeneration": 7, "reason": "Because", "message": "of this"}
        for kind, status in conditions.items()
    ]
    route["status"] = {"parents": [{"parentRef": dict(route["spec"]["parentRefs"][0]), "conditions": said}]}
    return route


def test_a_route_is_accepted_at_its_own_generation_only() -> None:
    route = stored(TEN, Accepted="True", ResolvedRefs="True")
    assert route_view(route, OWNER).accepted is True
    route["metadata"]["generation"] = 8
    assert route_view(route, OWNER).accepted is None


@pytest.mark.parametrize("kind", ["Accepted", "ResolvedRefs"])
def test_a_refusal_is_told_in_the_gateways_words(kind: str) -> None:
    view = route_view(stored(TEN, **({"Accepted": "True", "ResolvedRefs": "True"} | {kind: "False"})), OWNER)
    assert (view.accepted, view.refused) == (False, True)
    assert view.words == "public: Because: of this"


def test_a_parent_that_says_nothing_is_waited_for() -> None:
    assert route_view(stored(TEN), OWNER).accepted is None
    assert route_view(stored(TEN, Accepted="True"), OWNER).accepted is None
    route = stored(TEN, Accepted="True", ResolvedRefs="True")
    route["spec"]["parentRefs"].append({"name": "second"})
    assert route_view(route, OWNER).accepted is None


def test_a_server_that_prunes_the_percentage_mirrors_everything() -> None:
    route = stored(TEN)
    assert route_view(route, OWNER).stored_mirror == 20
    del route["spec"]["rules"][0]["filters"][0]["requestMirror"]["percent"]
    view = route_view(route, OWNER)
    assert view.stored_mirror == 100
    assert view.traffic is not None
    assert view.traffic.mirror == 20, "what was asked for is on record"


def test_weights_are_read_from_the_rule_as_it_is_stored() -> None:
    route = stored(TEN)
    route["spec"]["rules"][0]["backendRefs"][0]["weight"] = 30
    found = read_traffic(route, OWNER)
    assert found is not None
    assert found.weight == 25


@pytest.mark.parametrize("mark", ["rlhf.dev/stable", "rlhf.dev/rejected", "rlhf.dev/step", "rlhf.dev/match"])
def test_marks_that_cannot_be_read_are_nobodys(mark: str) -> None:
    route = stored(TEN)
    route["metadata"]["annotations"][mark] = "" if mark == "rlhf.dev/stable" else "{nonsense"
    assert read_traffic(route, OWNER) is None


def gateway_class(controller: str, *features: Any) -> Any:
    return {"spec": {"controllerName": controller}, "status": {"supportedFeatures": list(features)}}


ENVOY = "gateway.envoyproxy.io/gatewayclass-controller"
PERCENT = "HTTPRouteRequestPercentageMirror"


@pytest.mark.parametrize(
    ("setting", "classes", "support"),
    [
        ("auto", (gateway_class(ENVOY),), Support.YES),
        ("auto", (gateway_class("example.com/other"),), Support.UNKNOWN),
        ("auto", (gateway_class("example.com/other", {"name": PERCENT}),), Support.YES),
        ("auto", (gateway_class("example.com/other", PERCENT),), Support.YES),
        ("auto", (gateway_class(ENVOY, {"name": "HTTPRoute"}),), Support.NO),
        ("auto", (gateway_class(ENVOY), None), Support.UNKNOWN),
        ("auto", (), Support.UNKNOWN),
        ("unsupported", (gateway_class(ENVOY),), Support.NO),
        ("supported", (None,), Support.YES),
    ],
)
def test_whether_a_gateway_mirrors_a_part(setting: str, classes: tuple[Any, ...], support: Support) -> None:
    assert mirror_support(setting, classes) is support

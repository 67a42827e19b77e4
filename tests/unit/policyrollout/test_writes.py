"""What is written for a decision, and in which order; what goes, and what stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlhf_operator.api.policyrollout import PolicyRolloutStatus
from rlhf_operator.common.intents import Manifest
from rlhf_operator.policyrollout import children, judging, revisions
from rlhf_operator.policyrollout.decision import Decision, Need, Outlook
from rlhf_operator.policyrollout.live import Scorers
from rlhf_operator.policyrollout.look import Look
from rlhf_operator.policyrollout.metrics import in_force
from rlhf_operator.policyrollout.views import Observed, Pods, Revision, RouteView, Traffic, Wanted
from rlhf_operator.policyrollout.writes import Writes, writes

from .makings import DEFAULTS, OWNER, SOURCE, TEXTS, rendering, spec_of

GRADED = {
    "metrics": [
        {"name": "short", "preset": {"rewardMean": {"scorer": {"grader": {"length": {"max": 8}}}, "min": 0.5}}},
    ]
}


def record(texts: Any = TEXTS, number: int = 1) -> Manifest:
    made = rendering(texts)
    inputs = revisions.inputs_key(SOURCE, made.spec.serving, texts)
    return revisions.record(made, inputs, children.render(made), number)


def revision(manifest: Manifest) -> Revision:
    found = revisions.read(manifest, OWNER)
    assert found is not None
    return found


ONE, TWO = revision(record()), revision(record(replace(TEXTS, system_prompt="Be kind."), 2))


def look(**changes: Any) -> Look:
    spec = changes.pop("spec", spec_of())
    beside = {name: changes.pop(name) for name in ("judge", "keys", "orphans", "scaled") if name in changes}
    observed = Observed(
        owner=OWNER,
        generation=1,
        spec=spec,
        status=PolicyRolloutStatus(),
        defaults=DEFAULTS,
        revisions={ONE.name: ONE, TWO.name: TWO},
        **changes,
    )
    return Look(observed=observed, metrics=in_force(spec, {}), judge_refused="", **beside)


def decision(traffic: Traffic | None, **changes: Any) -> Decision:
    return Decision(traffic=traffic, outlook=Outlook("Promoted", ""), **changes)


def made(seen: Look, decided: Decision) -> Writes:
    assert seen.observed.spec is not None
    return writes(seen, seen.observed.spec, decided, Scorers())


def names(result: Writes) -> list[str]:
    return [f"{each['kind']} {each['metadata']['name']}" for each in result.apply]


def test_the_route_is_the_first_of_all_writes() -> None:
    wanted = Wanted(revision="new", rendered=record(replace(TEXTS, system_prompt="Be wise."), 3))
    decided = decision(Traffic(ONE.name), needed={ONE.name: Need(2), TWO.name: Need(0)}, record=True)
    written = names(made(look(wanted=wanted), decided))
    assert written[:2] == ["HTTPRoute assistant", "Service assistant"]
    assert written[2].startswith("ControllerRevision assistant-")
    at = {name: index for index, name in enumerate(written)}
    texts, pods = f"ConfigMap assistant-{ONE.name}", f"Deployment assistant-{ONE.name}"
    assert at["ConfigMap assistant-signals"] < at[texts] < at[pods]


def test_pods_are_what_was_frozen_with_the_number_that_is_needed() -> None:
    result = made(look(), decision(Traffic(ONE.name), needed={ONE.name: Need(3)}))
    deployment = next(each for each in result.apply if each["kind"] == "Deployment")
    assert deployment["spec"]["replicas"] == 3
    frozen = next(each for each in ONE.objects if each["kind"] == "Deployment")
    assert deployment["spec"]["template"] == frozen["spec"]["template"]


def test_what_an_autoscaler_has_set_stays_unless_it_is_too_little() -> None:
    spec = spec_of(serving={"autoscaling": {"min": 2, "max": 8}})
    needed = {ONE.name: Need(2, autoscale=(2, 8))}
    for found, wanted in ((5, 5), (1, 2)):
        pods = {ONE.name: Pods(ONE.name, "uid", replicas=found, ready=found, scaled_by_others=True)}
        seen = look(spec=spec, pods=pods, keda=True, scaled=frozenset({ONE.name}))
        result = made(seen, decision(Traffic(ONE.name), needed=needed))
        deployment = next(each for each in result.apply if each["kind"] == "Deployment")
        assert deployment["spec"]["replicas"] == wanted
        assert f"ScaledObject assistant-{ONE.name}" in names(result)


def test_without_keda_nothing_is_scaled_and_a_former_autoscaler_goes() -> None:
    spec = spec_of(serving={"autoscaling": {"min": 2, "max": 8}})
    left = (("ScaledObject", f"assistant-{ONE.name}", "uid-of-it", ONE.name),)
    result = made(
        look(spec=spec, children=left), decision(Traffic(ONE.name), needed={ONE.name: Need(2, autoscale=(2, 8))})
    )
    assert not any(name.startswith("ScaledObject") for name in names(result))
    assert [(each.resource.kind, each.uid) for each in result.delete] == [("ScaledObject", "uid-of-it")]


def test_a_revision_that_nobody_needs_goes_with_everything_of_it_and_nothing_else() -> None:
    owned = tuple(
        (kind, f"assistant-{each.name}", f"{kind}-{each.name}", each.name)
        for each in (ONE, TWO)
        for kind in ("ConfigMap", "ControllerRevision", "Deployment", "PodDisruptionBudget", "Service")
    )
    fixed = (("HTTPRoute", "assistant", "route", ""), ("Service", "assistant", "stable", ""))
    decided = decision(Traffic(ONE.name), needed={ONE.name: Need(2)}, removed=frozenset({TWO.name}))
    result = made(look(children=owned + fixed), decided)
    assert {each.uid for each in result.delete} == {uid for _, _, uid, name in owned if name == TWO.name}


def test_a_route_that_is_not_ours_to_write_is_left_alone_and_so_is_the_service() -> None:
    foreign = RouteView(uid="uid", generation=1, traffic=None, accepted=None)
    written = names(made(look(route=foreign), decision(None, needed={ONE.name: Need(2)})))
    assert not [name for name in written if name in ("HTTPRoute assistant", "Service assistant")]


def test_the_first_revision_has_its_service_before_its_route() -> None:
    result = made(look(), decision(None, needed={ONE.name: Need(2)}))
    written = names(result)
    assert written[0] == "Service assistant"
    assert result.apply[0]["spec"]["selector"]["rlhf.dev/revision"] == ONE.name
    assert "HTTPRoute assistant" not in written


def test_a_cluster_without_gateway_api_gets_pods_and_a_service() -> None:
    written = names(made(look(gateway_api=False), decision(Traffic(ONE.name), needed={ONE.name: Need(2)})))
    assert "HTTPRoute assistant" not in written
    assert "Service assistant" in written


def test_a_judge_comes_with_a_metric_that_needs_one_and_goes_with_the_last() -> None:
    decided = decision(Traffic(ONE.name), needed={ONE.name: Need(2)})
    with_judge = made(look(spec=spec_of(analysis=GRADED)), decided)
    judge = [name for name in names(with_judge) if name.endswith("assistant-judge")]
    assert sorted(judge) == [
        "ConfigMap assistant-judge",
        "Deployment assistant-judge",
        "PodDisruptionBudget assistant-judge",
        "Service assistant-judge",
    ]
    signals = next(each for each in with_judge.apply if each["metadata"]["name"] == "assistant-signals")
    assert "http://assistant-judge.team.svc:8080" in signals["data"]["signals.json"]
    left = tuple((kind, "assistant-judge", kind, "") for kind in ("ConfigMap", "Deployment", "Service"))
    without = made(look(children=left), decided)
    assert {each.uid for each in without.delete} == {"ConfigMap", "Deployment", "Service"}
    signals = next(each for each in without.apply if each["metadata"]["name"] == "assistant-signals")
    assert "assistant-judge" not in signals["data"]["signals.json"]


def test_a_judge_is_rendered_once_and_anew_only_when_its_settings_change() -> None:
    spec = spec_of(analysis=GRADED)
    old = judging.render_judge(OWNER, spec.judge, replace(DEFAULTS, server_image="registry.example/server:0"))
    decided = decision(Traffic(ONE.name))

    def image(seen: Look) -> str:
        name = "Deployment assistant-judge"
        found = next(each for each in made(seen, decided).apply if f"{each['kind']} {each['metadata']['name']}" == name)
        image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
        return image

    assert image(look(spec=spec, judge=old)) == "registry.example/server:0"
    changed = spec_of(analysis=GRADED, judge={"priorityClassName": "low", "replicas": 3})
    assert image(look(spec=changed, judge=old)) == "registry.example/server:1"


def test_a_judge_that_the_server_refuses_is_told_and_the_former_goes_on() -> None:
    spec = spec_of(analysis=GRADED, judge={"template": {"spec": {"containers": [{"name": "judge", "ports": []}]}}})
    result = made(look(spec=spec), decision(Traffic(ONE.name)))
    assert "ports" in result.problem
    assert not [name for name in names(result) if "judge" in name]

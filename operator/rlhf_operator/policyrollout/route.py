"""Traffic as an HTTPRoute, and an HTTPRoute as Traffic. What it should say is decided elsewhere. Pure.

The marks are annotations of the same object: weights and what they mean are written, or lost, together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.api import signals
from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.intents import PAUSED_ANNOTATION, Manifest
from rlhf_operator.common.names import Owner, metadata
from rlhf_operator.common.resources import HTTPROUTES
from rlhf_operator.common.times import format_time, parse_time

from .children import SERVICE_PORT
from .rendering import revision_name
from .steps import Headers, first_headers
from .views import Rejection, RouteView, Traffic

STABLE_MARK = "rlhf.dev/stable"
CANDIDATE_MARK = "rlhf.dev/candidate"
STEP_MARK = "rlhf.dev/step"
REJECTED_MARK = "rlhf.dev/rejected"
MIRROR_MARK = "rlhf.dev/mirror"
"""Percent that was asked for: an old CRD drops it from the rule, and all requests are mirrored."""
MATCH_MARK = "rlhf.dev/match"
GOAL_MARK = "rlhf.dev/goal"

LEAST = 1
"""Percent of a rule's second place while one revision has everything."""
Places = tuple[tuple[str, int], tuple[str, int]]
UNMIRRORED_PATHS = ("/v1/models", "/v1/feedback")
REJECTED_KEPT = 10
WORDS = 300
"""Longest message of a rejection, or of a gateway, that is kept."""


def http_route(owner: Owner, spec: PolicyRolloutSpec, traffic: Traffic) -> dict[str, Any]:
    """Return the route that sends requests where `traffic` says."""
    meta = metadata(owner, owner.name, {owner.label: owner.name})
    meta["annotations"] = _marks(traffic)
    shared = places(traffic)
    mirror = _mirror(owner, traffic)
    # What carries weights and mirror; models and feedback, never mirrored; requests with a step's headers. They have no
    # names: a server whose CRD is older than 1.4 refuses those.
    rules = [
        _rule(_matches(spec, spec.route.paths), shared, owner, spec) | mirror,
        _rule(_matches(spec, UNMIRRORED_PATHS), shared, owner, spec),
    ]
    if traffic.headers:
        rules.append(_rule(_chosen(spec, traffic.headers), _whole(traffic.candidate), owner, spec))
    elif ahead := first_headers(spec.strategy.steps):
        rules.append(_rule(_chosen(spec, ahead), shared, owner, spec) | mirror)
    body: dict[str, Any] = {"parentRefs": [each.dump() for each in spec.route.parent_refs], "rules": rules}
    if spec.route.hostnames:
        body["hostnames"] = list(spec.route.hostnames)
    return {"apiVersion": HTTPROUTES.api_version, "kind": HTTPROUTES.kind, "metadata": meta, "spec": body}


def route_view(manifest: Manifest, owner: Owner) -> RouteView:
    """Return the stored route."""
    meta = manifest["metadata"]
    generation = meta.get("generation", 0)
    accepted, at, refusal = _accepted(manifest, generation)
    return RouteView(
        uid=meta["uid"],
        generation=generation,
        traffic=read_traffic(manifest, owner),
        accepted=accepted,
        accepted_at=at,
        words=refusal,
        refused=accepted is False,
        stored_mirror=_stored_mirror(manifest),
        paused=(meta.get("annotations") or {}).get(PAUSED_ANNOTATION) == "true",
    )


def read_traffic(manifest: Manifest, owner: Owner) -> Traffic | None:
    """Return where a stored route sends requests: weights as they stand in its rules, the rest from its marks."""
    marks = manifest["metadata"].get("annotations") or {}
    stable, candidate = marks.get(STABLE_MARK, ""), marks.get(CANDIDATE_MARK, "")
    if not stable:
        return None
    try:
        index, name = _read_step(marks.get(STEP_MARK, ""))
        headers = tuple((str(n), str(v), str(t)) for n, v, t in json.loads(marks.get(MATCH_MARK) or "[]"))
        goal, mirror = int(marks.get(GOAL_MARK) or 0), int(marks.get(MIRROR_MARK) or 0)
        rejected = tuple(_read_rejected(marks.get(REJECTED_MARK) or "[]"))
    except (ValueError, TypeError, KeyError):
        return None
    return Traffic(
        stable=stable,
        candidate=candidate,
        step=name if candidate else "",
        index=index if candidate else -1,
        goal=goal if candidate else 0,
        weight=_weight(manifest, revision_name(owner.name, candidate)) if candidate else 0,
        mirror=mirror if candidate else 0,
        headers=headers if candidate else (),
        rejected=rejected,
    )


def _marks(traffic: Traffic) -> dict[str, str]:
    step = f"{traffic.index} {traffic.step}" if traffic.candidate else ""
    rejected = [
        {
            "revision": each.revision,
            "reason": each.reason,
            "message": cut(each.message, WORDS),
            "at": format_time(each.at),
        }
        for each in traffic.rejected[:REJECTED_KEPT]
    ]
    return {
        STABLE_MARK: traffic.stable,
        CANDIDATE_MARK: traffic.candidate,
        STEP_MARK: step,
        REJECTED_MARK: json.dumps(rejected, separators=(",", ":")),
        GOAL_MARK: str(traffic.goal),
        MIRROR_MARK: str(traffic.mirror),
        MATCH_MARK: json.dumps(traffic.headers, separators=(",", ":")),
    }


def _read_step(text: str) -> tuple[int, str]:
    if not text:
        return -1, ""
    index, _, name = text.partition(" ")
    return int(index), name


def _read_rejected(text: str) -> Iterator[Rejection]:
    for each in json.loads(text):
        at = parse_time(each["at"]) or datetime.fromtimestamp(0, UTC)
        yield Rejection(str(each["revision"]), str(each["reason"]), str(each["message"]), at)


def places(traffic: Traffic) -> Places:
    """Return what stands behind a rule: revisions and their percentages, in two places that are never empty.

    A gateway may name what it sends to by its place in the route, and drops what has no weight. Where a place comes or
    goes, or a live one moves, requests meet a name that is not known yet or no more, and users an error (decision 078).
    """
    if not traffic.candidate or traffic.weight == 0:
        return _whole(traffic.stable)
    if traffic.weight == 100:
        return _whole(traffic.candidate)
    return (traffic.stable, 100 - traffic.weight), (traffic.candidate, traffic.weight)


def _whole(revision: str) -> Places:
    # A revision that enters the second place gets no more than this from a gateway that has not seen its weight yet.
    return (revision, 100 - LEAST), (revision, LEAST)


def _rule(
    matches: Sequence[Mapping[str, Any]], places: Places, owner: Owner, spec: PolicyRolloutSpec
) -> dict[str, Any]:
    return {
        "matches": list(matches),
        # Left out, a gateway's own default cuts long answers.
        "timeouts": _timeouts(spec),
        "backendRefs": [_backend(owner, revision) | {"weight": weight} for revision, weight in places],
    }


def _mirror(owner: Owner, traffic: Traffic) -> dict[str, Any]:
    if not traffic.candidate or not traffic.mirror:
        return {}
    backend = {"name": revision_name(owner.name, traffic.candidate), "port": signals.SHADOW_PORT}
    mirror = {"backendRef": backend, "percent": traffic.mirror}
    return {"filters": [{"type": "RequestMirror", "requestMirror": mirror}]}


def _chosen(spec: PolicyRolloutSpec, headers: Headers) -> list[dict[str, Any]]:
    """Return the matches of requests with these headers: they have more of them than any other rule's, and so win."""
    wanted = [{"name": name, "value": value, "type": kind} for name, value, kind in headers]
    return [{**each, "headers": [*(each.get("headers") or ()), *wanted]} for each in _matches(spec, spec.route.paths)]


def _backend(owner: Owner, revision: str) -> dict[str, Any]:
    """Return a revision's Service. The header tells a copy whom the original went to; a client's own is overwritten."""
    header = {"name": signals.SERVED_HEADER, "value": revision}
    return {
        "name": revision_name(owner.name, revision),
        "port": SERVICE_PORT,
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [header]}}],
    }


def _matches(spec: PolicyRolloutSpec, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return one match for each path and each of the user's matches; a match with a path of its own keeps it."""
    found: list[dict[str, Any]] = []
    for path in paths:
        wanted = {"path": {"type": "PathPrefix", "value": path}}
        found += [{**wanted, **each} for each in (spec.route.matches or [{}])]
    return [each for index, each in enumerate(found) if each not in found[:index]]


def _timeouts(spec: PolicyRolloutSpec) -> dict[str, str]:
    return {"request": str(spec.route.timeouts.request), "backendRequest": str(spec.route.timeouts.backend_request)}


def _weight(manifest: Manifest, service: str) -> int:
    """Return the percentage of live requests that goes to a Service, as the stored rule has it."""
    weights = [(each.get("name"), each.get("weight", 1)) for each in _stored_rule(manifest).get("backendRefs") or ()]
    whole = sum(weight for _, weight in weights)
    return round(100 * sum(weight for name, weight in weights if name == service) / whole) if whole else 0


def _stored_mirror(manifest: Manifest) -> int:
    for each in _stored_rule(manifest).get("filters") or ():
        if each.get("type") == "RequestMirror":
            mirror = each.get("requestMirror") or {}
            # Without a percentage every request is mirrored.
            return int(mirror.get("percent", 100))
    return 0


def _stored_rule(manifest: Manifest) -> Mapping[str, Any]:
    rules: Sequence[Mapping[str, Any]] = (manifest.get("spec") or {}).get("rules") or ()
    return rules[0] if rules else {}


def _accepted(manifest: Manifest, generation: int) -> tuple[bool | None, datetime | None, str]:
    """Return what the gateways say of this generation: True once every parent takes it, False when one refuses."""
    parents = (manifest.get("status") or {}).get("parents") or ()
    waiting = False
    times: list[datetime] = []
    for wanted in (manifest.get("spec") or {}).get("parentRefs") or ():
        said = [each for each in parents if _same_parent(each.get("parentRef") or {}, wanted)]
        if not said:
            waiting = True
        for each in said:
            verdict, at, words = _of_parent(each, generation)
            if verdict is False:
                return False, None, words
            waiting = waiting or verdict is None
            times += [at] if at is not None else []
    return (None if waiting else True), max(times, default=None), ""


def _of_parent(parent: Mapping[str, Any], generation: int) -> tuple[bool | None, datetime | None, str]:
    verdict: bool | None = True
    times = []
    for kind in ("Accepted", "ResolvedRefs"):
        found: Mapping[str, Any] = next(
            (each for each in parent.get("conditions") or () if each.get("type") == kind), {}
        )
        if not found or found.get("observedGeneration", 0) < generation or found.get("status") == "Unknown":
            verdict = None
            continue
        if found.get("status") == "False":
            who = (parent.get("parentRef") or {}).get("name", "a gateway")
            words = f"{who}: {found.get('reason', kind)}: {found.get('message', '')}".rstrip(": ")
            return False, None, cut(words, WORDS)
        at = parse_time(found.get("lastTransitionTime"))
        times += [at] if at is not None else []
    return verdict, max(times, default=None), ""


def _same_parent(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    # The server fills group and kind in; a namespace that is left out is the route's own.
    return all(found.get(field) == wanted.get(field) for field in ("name", "sectionName", "port")) and (
        found.get("namespace") == wanted.get("namespace") or "namespace" not in wanted or "namespace" not in found
    )

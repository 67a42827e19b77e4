"""Which conditions a PolicyRollout has, and how each follows from what was decided. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.conditions import FALSE, TRUE, UNKNOWN, Condition
from rlhf_operator.common.reasons import Reason

from .analysis import Analysis
from .decision import Decision
from .history import Ending
from .recorded import PAUSED
from .views import BAD_REVISION, Observed, Traffic, Trouble

GATEWAY_API = (
    "the cluster has no HTTPRoutes (gateway.networking.k8s.io): install Gateway API 1.3 or newer and a gateway; until "
    "then the Service of this name serves inside the cluster"
)


@dataclass(frozen=True, slots=True)
class Beside:
    """What conditions tell beside the decision."""

    waits_for: str = ""
    """RewardModels that can't judge yet."""
    problem: str = ""
    """Why the judge's pods can't be made."""
    no_autoscaler: str = ""
    """Why the number of pods follows no load though it should."""


def wanted_conditions(
    observed: Observed,
    spec: PolicyRolloutSpec,
    decision: Decision,
    analysis: Analysis | None,
    shown: Traffic | None,
    beside: Beside,
) -> list[Condition]:
    """Return every condition, in the order in which they come to be. shown: the traffic that status speaks of."""
    route = _route(observed)
    candidate = _candidate(observed, shown)
    healthy = _healthy(spec, analysis, beside)
    paused = _paused(decision)
    details = [route, candidate, healthy, paused, _promoted(observed, decision, shown), _rolled_back(decision, shown)]
    return [*details, *_summary(observed, decision, shown, route, beside)]


def _route(observed: Observed) -> Condition:
    kind = "RouteAccepted"
    if not observed.gateway_api:
        return Condition(kind, FALSE, Reason.GATEWAY_API_MISSING, GATEWAY_API)
    route = observed.route
    if route is None:
        words = "there is no route yet: it is made when the pods of the first revision are ready"
        return Condition(kind, FALSE, Reason.ROUTE_PENDING, words)
    if route.traffic is None:
        words = (
            f"HTTPRoute {observed.owner.name} carries no marks of ours that can be read: it is written anew from what "
            "status knows, as soon as that has ready pods"
        )
        return Condition(kind, FALSE, Reason.ROUTE_UNREADABLE, words)
    if route.refused:
        words = f"the gateway refuses HTTPRoute {observed.owner.name}: {route.words}"
        return Condition(kind, FALSE, Reason.ROUTE_REFUSED, words)
    if route.accepted is None:
        words = f"no word from every gateway about generation {route.generation} of HTTPRoute {observed.owner.name} yet"
        return Condition(kind, UNKNOWN, Reason.ROUTE_PENDING, words)
    return Condition(kind, TRUE, Reason.ROUTE_ACCEPTED, f"HTTPRoute {observed.owner.name} is in force")


def _candidate(observed: Observed, shown: Traffic | None) -> Condition:
    kind = "CandidateAvailable"
    if shown is None or not shown.candidate:
        return Condition(kind, FALSE, Reason.NO_CANDIDATE, "no rollout is under way")
    pods = observed.pods.get(shown.candidate)
    name = f"revision {shown.candidate}"
    if pods is None:
        return Condition(kind, FALSE, Reason.STARTING, f"the pods of {name} are being made")
    if pods.ready and pods.ready >= pods.replicas and pods.settled:
        return Condition(kind, TRUE, Reason.CANDIDATE_READY, f"{pods.ready} pods of {name} are ready")
    reasons = {each: Reason(each) for each in (Trouble.INFRASTRUCTURE, *BAD_REVISION)}
    words = f"{pods.ready} of {pods.replicas} pods of {name} are ready{': ' + pods.words if pods.words else ''}"
    return Condition(kind, FALSE, reasons.get(pods.trouble, Reason.STARTING), words)


def _healthy(spec: PolicyRolloutSpec, analysis: Analysis | None, beside: Beside) -> Condition:
    kind = "AnalysisHealthy"
    if spec.analysis is None:
        return Condition(kind, UNKNOWN, Reason.NOT_MEASURING, "the spec has no analysis")
    if beside.problem:
        return Condition(kind, FALSE, Reason.TEMPLATE_INVALID, beside.problem)
    if beside.waits_for:
        return Condition(kind, FALSE, Reason.REWARD_MODEL_NOT_READY, f"waits to judge: {beside.waits_for}")
    if analysis is None:
        return Condition(kind, UNKNOWN, Reason.NOT_MEASURING, "nothing is measured outside the steps of a rollout")
    if analysis.healthy is None:
        return Condition(kind, UNKNOWN, Reason.MEASURING, "the first round of measurements is not due yet")
    if not analysis.healthy:
        return Condition(kind, FALSE, Reason.ANALYSIS_BROKEN, analysis.words)
    return Condition(kind, TRUE, Reason.MEASURING, "every metric can be measured")


def _paused(decision: Decision) -> Condition:
    if decision.paused is None:
        return Condition(PAUSED, FALSE, Reason.NOT_PAUSED)
    return Condition(PAUSED, TRUE, decision.paused.reason, decision.paused.message)


def _promoted(observed: Observed, decision: Decision, shown: Traffic | None) -> Condition:
    kind = "Promoted"
    if shown is None:
        return Condition(kind, FALSE, Reason.NOT_PROMOTED, "nothing serves yet")
    if shown.candidate:
        return Condition(kind, FALSE, Reason.NOT_PROMOTED, f"revision {shown.candidate} is on its way")
    if observed.wanted.revision not in (None, shown.stable):
        return Condition(kind, FALSE, Reason.NOT_PROMOTED, f"revision {observed.wanted.revision} is wanted")
    last = next((each for each in decision.history if each.revision == shown.stable), None)
    how = f": {last.message}" if last is not None and last.message else ""
    return Condition(kind, TRUE, Reason.PROMOTED, f"revision {shown.stable} has all traffic{how}")


def _rolled_back(decision: Decision, shown: Traffic | None) -> Condition:
    kind = "RolledBack"
    last = decision.history[0] if decision.history else None
    back = (Ending.ROLLED_BACK, Ending.ABORTED)
    if last is None or last.outcome not in back or (shown is not None and shown.candidate):
        return Condition(kind, FALSE, Reason.NOT_ROLLED_BACK)
    by = f" by {last.by}" if last.by else ""
    verb = "aborted" if last.outcome == Ending.ABORTED else "rolled back"
    words = f"{verb} {last.revision}{by}: {last.message or last.reason}"
    return Condition(kind, TRUE, last.reason or Reason.ROLLED_BACK, words)


def _summary(
    observed: Observed, decision: Decision, shown: Traffic | None, route: Condition, beside: Beside
) -> list[Condition]:
    """Return Ready (users are served), Reconciling and Stalled as kstatus reads them."""
    outlook = decision.outlook
    busy, stalled = outlook.busy and not outlook.stalled, outlook.stalled
    return [
        _ready(observed, decision, shown, route, beside),
        Condition("Reconciling", TRUE if busy else FALSE, outlook.reason, outlook.message if busy else ""),
        Condition("Stalled", TRUE if stalled else FALSE, outlook.reason, outlook.message if stalled else ""),
    ]


def _ready(
    observed: Observed, decision: Decision, shown: Traffic | None, route: Condition, beside: Beside
) -> Condition:
    outlook = decision.outlook
    if shown is None or not shown.stable:
        return Condition("Ready", FALSE, outlook.reason, outlook.message or "nothing serves yet")
    pods = observed.pods.get(shown.stable)
    if pods is None or pods.ready == 0:
        why = f": {pods.words}" if pods is not None and pods.words else ""
        words = f"revision {shown.stable} has no pod that is ready{why}"
        return Condition("Ready", FALSE, Reason.NOTHING_SERVES, words)
    if route.status == FALSE:
        return Condition("Ready", FALSE, route.reason, route.message)
    words = f"revision {shown.stable} serves"
    if pods.ready < pods.replicas:
        words += f" with {pods.ready} of {pods.replicas} pods"
    for each in (beside.no_autoscaler, observed.wanted.message):
        words += f"; {each}" if each else ""
    return Condition("Ready", TRUE, Reason.READY, words)

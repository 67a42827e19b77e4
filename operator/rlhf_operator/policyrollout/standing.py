"""No candidate is under way: the first route, one that was lost, and whether a new candidate starts. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.times import format_time

from . import recorded
from .capacity import NO_PODS, whole
from .commands import Done, obey
from .decision import Outlook
from .history import Ending, rejection_of
from .moves import Move, begun, candidate_started
from .views import BAD_REVISION, STARTING, Command, Observed, Rejection, Traffic, Trouble

BACK_OFF = timedelta(minutes=5)
"""Until a candidate that found no nodes is tried again; any change of the spec has it tried at once."""


def standing(
    observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic, command: Command | None, now: datetime
) -> Move:
    """Return the move of a rollout at rest: stable serves everything."""
    answer = obey(observed, spec, traffic, None, command, now) if command is not None else None
    if isinstance(answer, Done):
        traffic = answer.traffic
        if traffic.candidate:
            outlook = Outlook(Reason.ROLLING_BACK, answer.words, busy=True)
            return Move(traffic, outlook, answer=answer)
    wanted = observed.wanted.revision
    if wanted is None:
        return Move(traffic, _waits(observed, traffic), answer=answer)
    if wanted == traffic.stable:
        return Move(traffic, Outlook(Reason.PROMOTED, f"{wanted} serves all traffic"), answer=answer)
    rejection = rejection_of(traffic, wanted)
    if rejection is not None:
        words = f"{wanted} is not tried again by itself: {rejection.message or rejection.reason}; "
        words += f"{traffic.stable} serves. Publish another artifact, or retry {wanted}"
        return Move(traffic, Outlook(Reason.REJECTED, words, stalled=True), answer=answer)
    if wanted not in observed.revisions:
        return Move(traffic, Outlook(Reason.STARTING, f"{wanted} is put on record", busy=True), answer=answer)
    again = _again(observed, wanted)
    if again is not None and now < again and not (isinstance(answer, Done) and answer.hurries):
        last = observed.status.history[0]
        words = f"{wanted} was withdrawn: {last.message or last.reason}; it is tried again at {format_time(again)}"
        return Move(traffic, Outlook(Reason.INFRASTRUCTURE, words, busy=True), answer=answer, wake_at=again)
    words = f"the pods of {wanted} start; it has no traffic yet"
    return Move(
        begun(traffic, wanted),
        Outlook(Reason.CANDIDATE_STARTED, words, busy=True),
        answer=answer,
        events=(candidate_started(wanted, traffic.stable),),
    )


def _waits(observed: Observed, traffic: Traffic) -> Outlook:
    wanted = observed.wanted
    words = f"{wanted.message or 'no artifact is wanted'}; {traffic.stable} serves meanwhile"
    return Outlook(wanted.reason or Reason.STARTING, words, busy=True)


def _again(observed: Observed, wanted: str) -> datetime | None:
    """Return when a candidate that was withdrawn is tried again; None: at once."""
    status = observed.status
    if not status.history or observed.generation != status.observed_generation:
        return None
    last = status.history[0]
    if last.revision != wanted or last.outcome != Ending.INFRASTRUCTURE or last.to is None:
        return None
    return last.to + BACK_OFF


def without_route(observed: Observed, spec: PolicyRolloutSpec, now: datetime) -> Move:
    """Return the first route, or the one that takes the place of a lost one: what serves is what served."""
    if not observed.gateway_api:
        words = "the cluster has no HTTPRoute: install Gateway API's CRDs and a gateway"
        return Move(None, Outlook(Reason.GATEWAY_API_MISSING, words, stalled=True))
    rejected = _rejected(observed)
    was = recorded.stable_of(observed.status)
    if was and _ready(observed, was):
        return _restored(observed, was, rejected)
    wanted = observed.wanted.revision
    refused = {each.revision for each in rejected}
    found = [each for each in observed.pods if _ready(observed, each) and each not in refused]
    if was and was in observed.revisions and _comes_back(observed, was):
        return Move(None, Outlook(Reason.WAITING_FOR_PODS, f"waits for the pods of {was}, which was stable", busy=True))
    if wanted in found and not was:
        return _first(observed, spec, wanted, rejected, now)
    if found:
        newest = max(found, key=lambda each: observed.revisions[each].number if each in observed.revisions else -1)
        return _restored(observed, newest, rejected)
    return Move(None, _coming_up(observed))


def _first(
    observed: Observed, spec: PolicyRolloutSpec, wanted: str, rejected: tuple[Rejection, ...], now: datetime
) -> Move:
    pods = observed.pods[wanted]
    latest = None
    if pods.ready < whole(observed, spec, wanted) or not pods.settled:
        latest = (pods.created_at or now) + spec.strategy.progress_deadline.timedelta
        if now < latest:
            return Move(None, _coming_up(observed), wake_at=latest)
    words = f"{wanted} is the first revision: it gets all traffic"
    event = Event("Normal", Reason.FIRST_REVISION, words)
    return Move(Traffic(wanted, rejected=rejected), Outlook(Reason.FIRST_REVISION, words, busy=True), events=(event,))


def _restored(observed: Observed, stable: str, rejected: tuple[Rejection, ...]) -> Move:
    """Return the route to what serves; a candidate that was under way starts again, without traffic."""
    words = f"{stable} has ready pods and no route: it gets all traffic"
    rejected = tuple(each for each in rejected if each.revision != stable)
    traffic = Traffic(stable, rejected=rejected)
    candidate = recorded.candidate_of(observed.status)
    if candidate and candidate == observed.wanted.revision != stable and candidate in observed.revisions:
        traffic = Traffic(stable, candidate=candidate, step=STARTING, rejected=rejected)
    event = Event("Normal", Reason.ADOPTED, words)
    return Move(traffic, Outlook(Reason.ADOPTED, words, busy=True), events=(event,))


def _rejected(observed: Observed) -> tuple[Rejection, ...]:
    """Return what status remembers of the list that went with the route."""
    return tuple(
        Rejection(each.revision, each.reason or Reason.REJECTED, each.message or "", each.at)
        for each in observed.status.rejected
        if each.revision and each.at is not None
    )


def _ready(observed: Observed, revision: str) -> bool:
    return observed.pods.get(revision, NO_PODS).ready > 0


def _comes_back(observed: Observed, revision: str) -> bool:
    pods = observed.pods.get(revision)
    return pods is None or pods.trouble in (Trouble.NONE, Trouble.STARTING)


def _coming_up(observed: Observed) -> Outlook:
    wanted = observed.wanted
    if wanted.revision is None:
        return Outlook(wanted.reason or Reason.STARTING, wanted.message or "no artifact is wanted", busy=True)
    pods = observed.pods.get(wanted.revision, NO_PODS)
    words = f"the pods of the first revision {wanted.revision} start: {pods.ready} of {pods.replicas} are ready"
    if pods.words:
        words += f"; {pods.words}"
    if pods.trouble in BAD_REVISION:
        return Outlook(Reason(pods.trouble), words, stalled=True)
    return Outlook(Reason.WAITING_FOR_PODS, words, busy=True)

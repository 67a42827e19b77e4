"""A candidate is under way: failures, commands, other wishes, pods, gates, in this order. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rlhf_operator.api.policyrollout import FailureAction, PolicyRolloutSpec
from rlhf_operator.common.commands import Verb
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.times import for_people

from . import recorded
from .capacity import NO_PODS, carried, first_index, prepared, wanted_pods
from .commands import Done, obey
from .decision import Gate, GateState, Outlook, Pause
from .history import rejection_of
from .holds import hold_gate
from .moves import (
    Move,
    begun,
    candidate_started,
    describes,
    same_requests,
    sent_back,
    taken_over,
    withdrawn,
)
from .steps import Place, entered, following, locate, mirror_of
from .views import (
    BAD_REVISION,
    BAKE,
    PROMOTE,
    ROLLBACK,
    STARTING,
    Command,
    Observed,
    Rejection,
    Support,
    Traffic,
    Trouble,
)

LEAVING = (Verb.ABORT, Verb.ROLLBACK)
"""Verbs that take the candidate away; they count even when the spec already asks for another one."""


def under_way(
    observed: Observed,
    spec: PolicyRolloutSpec,
    traffic: Traffic,
    gate: Gate | None,
    command: Command | None,
    now: datetime,
) -> Move:
    """Return the next move of the candidate of `traffic`, which is the route as it is stored."""
    rejection = _failure(observed, spec, traffic, gate, now)
    if rejection is not None:
        words = f"{traffic.candidate} was sent back: {rejection.message}; {traffic.stable} serves all traffic"
        return Move(sent_back(traffic, rejection), Outlook(rejection.reason, words, stalled=True))
    pause = recorded.pause_of(observed.status, traffic)
    leaves = command is not None and command.verb in LEAVING
    other = None if leaves else _other_wish(observed, traffic)
    if other is not None:
        return other
    answer = obey(observed, spec, traffic, pause, command, now) if command is not None else None
    marks, restarts = traffic, False
    if isinstance(answer, Done):
        marks, pause, restarts = answer.traffic, answer.pause, answer.restarts
        if marks.candidate != traffic.candidate:
            reason = Reason.ROLLING_BACK if marks.candidate else Reason.ABORTED
            return Move(marks, Outlook(reason, answer.words, busy=bool(marks.candidate)), answer=answer)
    move = _stage(observed, spec, traffic, marks, pause, gate, now, restarts=restarts)
    return replace(move, answer=answer)


def _failure(
    observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic, gate: Gate | None, now: datetime
) -> Rejection | None:
    """Return why the candidate is bad, if it is."""
    pods = observed.pods.get(traffic.candidate, NO_PODS)
    where = f"step {traffic.step} at {traffic.weight} %"
    if pods.trouble in BAD_REVISION:
        words = f"{pods.words or f'its container ended {pods.restarts} times'} ({where})"
        return Rejection(traffic.candidate, Reason(pods.trouble), words, now)
    place = locate(traffic, spec.strategy.steps)
    if gate is None or gate.state is not GateState.FAILED or not place.has_traffic:
        return None
    if spec.on_failure.action is not FailureAction.ROLLBACK:
        return None
    return Rejection(traffic.candidate, gate.reason or Reason.ANALYSIS_FAILED, f"{gate.words} ({where})", now)


def _other_wish(observed: Observed, traffic: Traffic) -> Move | None:
    """Return the move that takes the candidate away because the spec asks for something else."""
    wanted = observed.wanted.revision
    if wanted in (None, traffic.candidate) or traffic.step == ROLLBACK:
        return None
    if wanted == traffic.stable or rejection_of(traffic, wanted) is not None:
        words = f"the spec asks for {wanted} now: {traffic.candidate} is withdrawn, {traffic.stable} serves all traffic"
        return Move(withdrawn(traffic), Outlook(Reason.SUPERSEDED, words, busy=True))
    if wanted not in observed.revisions:
        return None
    words = f"{wanted} takes the place of {traffic.candidate}; its pods start"
    return Move(
        begun(traffic, wanted),
        Outlook(Reason.SUPERSEDED, words, busy=True),
        events=(candidate_started(wanted, traffic.stable),),
    )


def _stage(
    observed: Observed,
    spec: PolicyRolloutSpec,
    stored: Traffic,
    marks: Traffic,
    pause: Pause | None,
    gate: Gate | None,
    now: datetime,
    *,
    restarts: bool,
) -> Move:
    """Return the move of a candidate that nothing takes away. `marks`: the stage, as a command may have set it."""
    place = locate(marks, spec.strategy.steps)
    if place.name == STARTING:
        return _starting(observed, spec, marks, pause, now)
    if place.name in (PROMOTE, ROLLBACK):
        return _taking_over(observed, spec, marks)
    pause, mirrors = _mirroring(observed, stored, place, pause)
    traffic = carried(observed, spec, marks, mirrors=mirrors)
    if not same_requests(stored, traffic):
        return _changed(observed, spec, stored, traffic, pause)
    if traffic.weight < traffic.goal or observed.pods.get(traffic.candidate, NO_PODS).ready < 1:
        return Move(traffic, _short(observed, spec, traffic), pause, restarts)
    if pause is not None:
        return Move(traffic, Outlook(pause.reason, pause.message), pause, restarts)
    route = observed.route
    if route is None or route.accepted is not True:
        words = f"step {traffic.step} waits for the gateway to accept the route"
        if route is not None and route.words:
            words += f": {route.words}"
        refused = route is not None and route.refused
        return Move(traffic, Outlook(Reason.WAITING_FOR_ROUTE, words, busy=not refused, stalled=refused))
    started = None if restarts else recorded.clock(observed.status, traffic, now)
    return _gated(spec, traffic, place, gate, started, now, observed, restarts=restarts)


def _gated(
    spec: PolicyRolloutSpec,
    traffic: Traffic,
    place: Place,
    gate: Gate | None,
    started: datetime | None,
    now: datetime,
    observed: Observed,
    *,
    restarts: bool,
) -> Move:
    """Return the move at the end of a stage, or that it is not there yet."""
    if spec.analysis is None:
        gate = hold_gate(spec, place, started, now)
    elif gate is None or started is None:
        gate = Gate(GateState.WAIT, Reason.STEP_UNDER_WAY, "waits for its first round")
    start = f"step {traffic.step} ({describes(traffic)}): "
    words = start + (gate.words or _said(observed, start) or "under way")
    if gate.state in (GateState.PAUSE, GateState.FAILED):
        failed = gate.state is GateState.FAILED
        reason = Reason.ANALYSIS_PAUSED if failed else gate.reason or Reason.UNDECIDED
        pause = Pause(reason, f"{gate.words}; promote, retry or abort {traffic.candidate}")
        event = Event("Warning", reason, f"{traffic.candidate} stands still in {words}")
        return Move(traffic, Outlook(reason, pause.message), pause, events=(event,))
    if place.step is not None and place.step.approval is not None:
        words = f"step {traffic.step} waits for a person: approve or abort {traffic.candidate}"
        return Move(traffic, Outlook(Reason.APPROVAL_NEEDED, words), restarts=restarts, wake_at=gate.wake_at)
    if gate.state is GateState.WAIT:
        reason = Reason.BAKING if place.name == BAKE else Reason.STEP_UNDER_WAY
        return Move(traffic, Outlook(reason, words, busy=True), restarts=restarts, wake_at=gate.wake_at)
    if place.name == BAKE:
        return _promoted(traffic)
    marks = following(traffic, spec.strategy.steps)
    _, mirrors = _mirroring(observed, marks, locate(marks, spec.strategy.steps), None)
    return _changed(observed, spec, traffic, carried(observed, spec, marks, mirrors=mirrors), None)


def _said(observed: Observed, start: str) -> str:
    """Return what the last round said of this stage: between rounds it still holds, and need not be written anew."""
    step = observed.status.step
    message = (step.message or "") if step is not None else ""
    return message.removeprefix(start) if message.startswith(start) else ""


def _starting(
    observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic, pause: Pause | None, now: datetime
) -> Move:
    """Return the move of a candidate without traffic whose pods come up."""
    pods, wanted = observed.pods.get(traffic.candidate, NO_PODS), wanted_pods(observed, spec, traffic)
    words = f"{pods.ready} of {wanted} pods of {traffic.candidate} are ready"
    if pods.words:
        words += f"; {pods.words}"
    if prepared(observed, spec, traffic):
        if pause is not None:
            return Move(traffic, Outlook(pause.reason, pause.message), pause)
        if observed.route is None or observed.route.accepted is not True:
            words = f"{words}; the gateway has not accepted the route yet"
            return Move(traffic, Outlook(Reason.WAITING_FOR_ROUTE, words, busy=True))
        marks = entered(traffic, spec.strategy.steps, first_index(observed, spec, traffic))
        _, mirrors = _mirroring(observed, marks, locate(marks, spec.strategy.steps), None)
        return _changed(observed, spec, traffic, carried(observed, spec, marks, mirrors=mirrors), None)
    started = recorded.clock(observed.status, traffic, now)
    deadline = spec.strategy.progress_deadline.timedelta
    if started is not None and now >= started + deadline and pause is None:
        words = f"{words}; withdrawn after {for_people(deadline)} without traffic, and tried again later"
        reason = Reason.INFRASTRUCTURE if pods.trouble is Trouble.INFRASTRUCTURE else Reason.PROGRESS_DEADLINE_EXCEEDED
        return Move(withdrawn(traffic), Outlook(reason, words, busy=True))
    if pause is not None:
        return Move(traffic, Outlook(pause.reason, pause.message), pause)
    wake = started + deadline if started is not None else None
    return Move(traffic, Outlook(Reason.WAITING_FOR_PODS, words, busy=True), wake_at=wake)


def _taking_over(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic) -> Move:
    """Return the move of a candidate that a person sends straight to everything."""
    if prepared(observed, spec, traffic):
        return _promoted(traffic)
    held = carried(observed, spec, traffic, mirrors=False)
    pods, wanted = observed.pods.get(traffic.candidate, NO_PODS), wanted_pods(observed, spec, traffic)
    words = f"{traffic.candidate} takes over as soon as its pods are ready: {pods.ready} of {wanted} are"
    if pods.words:
        words += f"; {pods.words}"
    reason = Reason.ROLLING_BACK if traffic.step == ROLLBACK else Reason.PROMOTING
    return Move(held, Outlook(reason, words, busy=True))


def _promoted(traffic: Traffic) -> Move:
    return Move(taken_over(traffic), Outlook(Reason.PROMOTED, f"{traffic.candidate} serves all traffic"))


def _changed(observed: Observed, spec: PolicyRolloutSpec, before: Traffic, after: Traffic, pause: Pause | None) -> Move:
    """Return the move to another stage, or to another weight of the same."""
    events: tuple[Event, ...] = ()
    if (before.step, before.goal) != (after.step, after.goal):
        words = f"{after.candidate} enters step {after.step}: {describes(after)}"
        events = (Event("Normal", Reason.STEP_STARTED, words),)
    elif after.weight < before.weight:
        words = f"{after.candidate} goes from {before.weight} % to {after.weight} %: too few of its pods are ready"
        events = (Event("Warning", Reason.CAPACITY_LOST, words),)
    if after.weight < after.goal:
        return Move(after, _short(observed, spec, after), pause, events=events)
    words = f"step {after.step} begins when the gateway has accepted the route ({describes(after)})"
    return Move(after, Outlook(Reason.WAITING_FOR_ROUTE, words, busy=True), pause, events=events)


def _short(observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic) -> Outlook:
    pods, wanted = observed.pods.get(traffic.candidate, NO_PODS), wanted_pods(observed, spec, traffic)
    words = f"step {traffic.step} has {traffic.weight} % of its {traffic.goal} %: {pods.ready} of {wanted} pods are "
    words += "ready"
    if pods.words:
        words += f"; {pods.words}"
    return Outlook(Reason.CAPACITY_LOST, words, busy=True)


def _mirroring(observed: Observed, stored: Traffic, place: Place, pause: Pause | None) -> tuple[Pause | None, bool]:
    """Return the pause that a mirror asks for, and whether one may be written.

    A gateway that can't mirror a part, or a CRD that prunes the part, would copy every request.
    """
    percent, route = mirror_of(place), observed.route
    ours = pause is not None and pause.reason in (Reason.MIRROR_PERCENT_PRUNED, Reason.MIRROR_UNSUPPORTED)
    if not 0 < percent < 100:
        return (None if ours else pause), True
    if observed.mirror_support is Support.NO:
        words = f"the gateway can't mirror {percent} % of the requests: take mirror out of step {place.name}, or use "
        words += "another gateway"
        return pause or Pause(Reason.MIRROR_UNSUPPORTED, words), False
    if pause is not None and pause.reason == Reason.MIRROR_PERCENT_PRUNED:
        return pause, False
    if route is not None and route.stored_mirror == 100 and 0 < stored.mirror < 100:
        words = "the HTTPRoute CRD of this cluster prunes percent and would mirror every request: the mirror was taken "
        words += "out. Update the Gateway API CRDs, then retry"
        return pause or Pause(Reason.MIRROR_PERCENT_PRUNED, words), False
    return (None if ours else pause), True

"""One look at one rollout: what the route says next, which pods that needs, and what status keeps of it. Pure."""

from __future__ import annotations

from datetime import datetime

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.rolloutstatus import HistoryEntry, StepStatus
from rlhf_operator.common.commands import Verb
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason

from . import recorded
from .capacity import fleet
from .commands import Done, Ignored, consumed, pending, who
from .decision import Decision, Gate, Outlook, Pause
from .history import Ending, ended, recorded_history, rejection_of
from .moves import Move, same_requests
from .standing import standing, without_route
from .steps import locate
from .underway import under_way
from .views import PROMOTE, ROLLBACK, STARTING, Command, Observed, Traffic


def decide(observed: Observed, gate: Gate | None, now: datetime) -> Decision:
    """Decide everything about traffic and pods of one rollout.

    gate: the analysis' verdict about the step under way; None where nothing is measured, or not yet.
    """
    spec = observed.spec
    if spec is None:
        return _left_alone(observed)
    route = observed.route
    stored = route.traffic if route is not None else None
    command = pending(observed)
    if route is not None and route.paused:
        words = "rlhf.dev/paused is set on the HTTPRoute: no traffic moves until it is taken off"
        move = Move(stored, Outlook(Reason.WRITES_PAUSED, words), _recorded_pause(observed, stored))
    elif stored is None:
        move = without_route(observed, spec, now)
    elif not recorded.agrees(observed.status, stored):
        move = _on_record_first(observed, stored, command, now)
    elif stored.candidate:
        move = under_way(observed, spec, stored, gate, command, now)
    else:
        move = standing(observed, spec, stored, command, now)
    return _decision(observed, spec, stored, move, command, now)


def _left_alone(observed: Observed) -> Decision:
    """Return what changes nothing: the spec can't be read."""
    status = observed.status
    stored = observed.route.traffic if observed.route is not None else None
    return Decision(
        traffic=stored,
        paused=_recorded_pause(observed, stored),
        step=status.step,
        candidate_since=recorded.variant(status, recorded.CANDIDATE).since,
        stable_since=recorded.variant(status, recorded.STABLE).since,
        history=tuple(status.history),
        outlook=Outlook(Reason.INVALID_SPEC, observed.spec_problem, stalled=True),
    )


def _recorded_pause(observed: Observed, stored: Traffic | None) -> Pause | None:
    return recorded.pause_of(observed.status, stored) if stored is not None else None


def _on_record_first(observed: Observed, stored: Traffic, command: Command | None, now: datetime) -> Move:
    """Return the move that only records what the route already says: an end that is not on record would be lost."""
    answer = None
    step = observed.status.step
    if command is not None and step is not None:
        about = (command.revision, command.step) == (recorded.candidate_of(observed.status), step.name)
        if about or (command.verb == Verb.ROLLBACK and stored.step == ROLLBACK):
            answer = Done(stored, None, f"{command.verb} by {who(command)} was carried out")
    words = f"{stored.stable} serves" + (f"; {stored.candidate} is the candidate" if stored.candidate else "")
    return Move(stored, Outlook(Reason.STEP_UNDER_WAY, words, busy=True), answer=answer, wake_at=now)


def _decision(
    observed: Observed,
    spec: PolicyRolloutSpec,
    stored: Traffic | None,
    move: Move,
    command: Command | None,
    now: datetime,
) -> Decision:
    status, traffic = observed.status, move.traffic
    entry = ended(observed, traffic, _by(observed, traffic, move, command), now)
    pods = fleet(observed, spec, traffic, now)
    wakes = [each for each in (move.wake_at, pods.wake_at) if each is not None]
    answered = command if move.answer is not None else None
    return Decision(
        traffic=traffic,
        needed=pods.needed,
        removed=pods.removed,
        record=_records(observed, traffic),
        paused=move.pause if traffic is not None and traffic.candidate else None,
        step=_step(observed, spec, stored, move, now),
        candidate_since=_since(observed, recorded.CANDIDATE, traffic.candidate if traffic else "", now),
        stable_since=_since(observed, recorded.STABLE, traffic.stable if traffic else "", now),
        history=recorded_history(status, entry),
        consumed=consumed(answered, now) if answered is not None else status.last_command,
        outlook=move.outlook,
        events=(*_answered(move, answered), *move.events, *_ended(entry)),
        wake_at=min(wakes, default=None),
    )


def _by(observed: Observed, traffic: Traffic | None, move: Move, command: Command | None) -> str | None:
    """Return who ended the rollout that ends."""
    if (
        isinstance(move.answer, Done)
        and command is not None
        and command.verb in (Verb.ABORT, Verb.ROLLBACK, Verb.PROMOTE)
    ):
        return who(command)
    last, step = observed.status.last_command, observed.status.step
    if last is None or step is None or traffic is None or traffic.candidate:
        return None
    verb = {PROMOTE: Verb.PROMOTE, ROLLBACK: Verb.ROLLBACK}.get(step.name or "")
    return last.by if verb is not None and last.verb == verb else None


def _records(observed: Observed, traffic: Traffic | None) -> bool:
    wanted = observed.wanted
    if wanted.rendered is None or wanted.revision is None:
        return False
    return traffic is None or rejection_of(traffic, wanted.revision) is None


def _since(observed: Observed, name: str, revision: str, now: datetime) -> datetime | None:
    found = recorded.variant(observed.status, name)
    if not revision:
        return None
    return found.since if found.revision == revision and found.since is not None else now


def _step(
    observed: Observed, spec: PolicyRolloutSpec, stored: Traffic | None, move: Move, now: datetime
) -> StepStatus | None:
    """Return the step as status has it: its clock runs only while the gateway carries all that the step asks for."""
    traffic = move.traffic
    if traffic is None or not traffic.candidate:
        return None
    place = locate(traffic, spec.strategy.steps)
    before = recorded.clock(observed.status, traffic, now)
    started = None
    if traffic.step in (STARTING, ROLLBACK, PROMOTE):
        started = before or now
    elif same_requests(stored, traffic) and traffic.weight >= traffic.goal and _is_carried(observed):
        started = now if move.restarts or before is None else before
    # Between rounds the last count still holds: to drop it would be a write of its own after every round.
    was = observed.status.step
    samples = was.samples if was is not None and before is not None and started == before else None
    return StepStatus(
        index=place.index, name=traffic.step, started_at=started, samples=samples, message=move.outlook.message
    )


def _is_carried(observed: Observed) -> bool:
    return observed.route is not None and observed.route.accepted is True


def _answered(move: Move, command: Command | None) -> tuple[Event, ...]:
    if isinstance(move.answer, Ignored) and command is not None:
        words = f"{command.verb or 'a command'} of {who(command)} was ignored: {move.answer.words}"
        return (Event("Warning", Reason.COMMAND_IGNORED, words),)
    return (Event("Normal", Reason.COMMAND_DONE, move.answer.words),) if isinstance(move.answer, Done) else ()


def _ended(entry: HistoryEntry | None) -> tuple[Event, ...]:
    if entry is None or entry.reason in (Reason.FIRST_REVISION, Reason.ADOPTED):
        return ()
    ending = Ending(entry.outcome or "")
    bad = ending in (Ending.ROLLED_BACK, Ending.INFRASTRUCTURE)
    words = f"{_SAID[ending]} {entry.revision}: {entry.message or entry.reason}"
    return (Event("Warning" if bad else "Normal", _REASONS[ending], words),)


_REASONS = {
    Ending.PROMOTED: Reason.PROMOTED,
    Ending.ROLLED_BACK: Reason.ROLLED_BACK,
    Ending.ABORTED: Reason.ABORTED,
    Ending.SUPERSEDED: Reason.SUPERSEDED,
    Ending.INFRASTRUCTURE: Reason.INFRASTRUCTURE,
}


_SAID = {
    Ending.PROMOTED: "promoted",
    Ending.ROLLED_BACK: "rolled back",
    Ending.ABORTED: "aborted",
    Ending.SUPERSEDED: "superseded",
    Ending.INFRASTRUCTURE: "withdrawn",
}

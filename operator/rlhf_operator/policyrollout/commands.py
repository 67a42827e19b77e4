"""Commands of people: how the annotation is read, and what each verb does to the route. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.rolloutstatus import CommandStatus
from rlhf_operator.common.commands import LONGEST, NONE, Verb
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.reasons import Reason

from .decision import Pause
from .history import promoted, rejection_of, remembered
from .steps import following, locate
from .views import PROMOTE, ROLLBACK, Command, Observed, Rejection, Traffic

LONGEST_WORD = 253


@dataclass(frozen=True, slots=True)
class Done:
    """What a command makes of route and pause."""

    traffic: Traffic
    pause: Pause | None
    words: str
    restarts: bool = False
    """Whether the clock of the stage begins anew."""
    hurries: bool = False
    """Whether what waits for its turn is tried at once."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Why a command does nothing."""

    words: str


def parse(text: str | None, *, verified: bool) -> Command | None:
    """Read `<id> <verb> <revision> <step> <user>`; the user's name may contain spaces.

    Words that are no command keep their id, so that they can be answered. None without any word.
    """
    words = (text or "")[:LONGEST].split(maxsplit=4)
    if not words:
        return None
    known = [cut(word, LONGEST_WORD) for word in words] + [""] * (5 - len(words))
    return Command(known[0], known[1], known[2], known[3], known[4], verified)


def pending(observed: Observed) -> Command | None:
    """Return the command that was not looked at yet."""
    command, last = observed.command, observed.status.last_command
    if command is None or (last is not None and last.id == command.id):
        return None
    return command


def who(command: Command) -> str:
    """Return who gave it. Without the cluster's admission policy anybody can write any name."""
    user = command.user.strip() or "somebody"
    return user if command.verified else f"{user} (unverified)"


def consumed(command: Command, now: datetime) -> CommandStatus:
    """Return the record that a command was looked at."""
    return CommandStatus(id=command.id, verb=command.verb, by=who(command), at=now)


@dataclass(frozen=True, slots=True)
class _Scene:
    observed: Observed
    spec: PolicyRolloutSpec
    traffic: Traffic
    pause: Pause | None
    command: Command
    now: datetime

    def rejection(self, revision: str, reason: str, words: str) -> Rejection:
        return Rejection(revision, str(reason), words, self.now)


def obey(
    observed: Observed, spec: PolicyRolloutSpec, traffic: Traffic, pause: Pause | None, command: Command, now: datetime
) -> Done | Ignored:
    """Return what a command makes of the route and the pause, or why it does nothing."""
    if command.verb not in _VERBS or not command.user:
        verbs = ", ".join(Verb)
        return Ignored(f"a command is <id> <verb> <revision> <step> <user> with one of the verbs {verbs}")
    return _VERBS[Verb(command.verb)](_Scene(observed, spec, traffic, pause, command, now))


def _mismatch(scene: _Scene) -> Ignored | None:
    """Return why a command about the candidate is not about the one under way."""
    command, traffic = scene.command, scene.traffic
    if not traffic.candidate:
        return Ignored(f"no candidate is under way for {command.verb}")
    if (command.revision, command.step) == (traffic.candidate, traffic.step):
        return None
    return Ignored(
        f"{command.verb} names revision {command.revision} in step {command.step}, "
        f"and under way is {traffic.candidate} in step {traffic.step}"
    )


def _promote(scene: _Scene) -> Done | Ignored:
    traffic = scene.traffic
    if mismatch := _mismatch(scene):
        return mismatch
    if traffic.step in (PROMOTE, ROLLBACK):
        return Ignored(f"{traffic.candidate} already takes over as soon as its pods are ready")
    mark = replace(traffic, step=PROMOTE, index=len(scene.spec.strategy.steps))
    return Done(mark, None, f"{who(scene.command)} promotes {traffic.candidate} from step {traffic.step}")


def _approve(scene: _Scene) -> Done | Ignored:
    if mismatch := _mismatch(scene):
        return mismatch
    place = locate(scene.traffic, scene.spec.strategy.steps)
    if place.step is None or place.step.approval is None:
        return Ignored(f"step {scene.traffic.step} needs no approval")
    if scene.pause is not None:
        return Ignored("the rollout is paused: resume it first")
    marks = following(scene.traffic, scene.spec.strategy.steps)
    return Done(marks, None, f"{who(scene.command)} approved {scene.traffic.candidate} in step {scene.traffic.step}")


def _abort(scene: _Scene) -> Done | Ignored:
    traffic = scene.traffic
    if mismatch := _mismatch(scene):
        return mismatch
    user = who(scene.command)
    if traffic.step == ROLLBACK:
        # Stable was about to be left: it is not.
        rejected = tuple(each for each in traffic.rejected if each.revision != traffic.stable)
        words = f"{user} called off going back to {traffic.candidate}"
        return Done(Traffic(traffic.stable, rejected=rejected), None, words)
    words = f"aborted by {user} in step {traffic.step} at {traffic.weight} %"
    rejection = scene.rejection(traffic.candidate, Reason.ABORTED, words)
    after = Traffic(traffic.stable, rejected=remembered(traffic.rejected, rejection))
    return Done(after, None, f"{traffic.candidate} was {words}")


def _retry(scene: _Scene) -> Done | Ignored:
    traffic, revision, user = scene.traffic, scene.command.revision, who(scene.command)
    if traffic.candidate and revision == traffic.candidate:
        if mismatch := _mismatch(scene):
            return mismatch
        if scene.pause is None or scene.pause.reason == Reason.COMMAND_PAUSED:
            return Ignored(f"step {traffic.step} needs no other try: it is {'paused' if scene.pause else 'under way'}")
        return Done(traffic, None, f"{user} starts step {traffic.step} of {revision} anew", restarts=True)
    if revision != traffic.stable and rejection_of(traffic, revision) is not None:
        rejected = tuple(each for each in traffic.rejected if each.revision != revision)
        words = f"{user} lets {revision} be tried again"
        return Done(replace(traffic, rejected=rejected), scene.pause, words, hurries=True)
    if not traffic.candidate and revision == scene.observed.wanted.revision != traffic.stable:
        return Done(traffic, None, f"{user} has {revision} tried at once", hurries=True)
    return Ignored(f"revision {revision} was not rejected and does not wait")


def _pause(scene: _Scene) -> Done | Ignored:
    if mismatch := _mismatch(scene):
        return mismatch
    if scene.pause is not None:
        return Ignored(f"the rollout is paused already: {scene.pause.message}")
    words = f"paused by {who(scene.command)} in step {scene.traffic.step} at {scene.traffic.weight} %"
    return Done(scene.traffic, Pause(Reason.COMMAND_PAUSED, f"{words}; resume goes on"), words)


def _resume(scene: _Scene) -> Done | Ignored:
    if mismatch := _mismatch(scene):
        return mismatch
    if scene.pause is None:
        return Ignored("the rollout is not paused")
    # A question that was not answered by figures would be asked again at once.
    restarts = scene.pause.reason != Reason.COMMAND_PAUSED
    return Done(scene.traffic, None, f"resumed by {who(scene.command)}", restarts=restarts)


def _rollback(scene: _Scene) -> Done | Ignored:
    traffic, user = scene.traffic, who(scene.command)
    named = scene.command.revision
    if scene.command.step != (traffic.step or NONE):
        return Ignored(f"rollback names step {scene.command.step}, and the step is {traffic.step or NONE}")
    if traffic.step == ROLLBACK:
        return Ignored(f"going back to {traffic.candidate} is under way")
    if traffic.candidate and named in (NONE, traffic.stable):
        words = f"rolled back by {user} from step {traffic.step} at {traffic.weight} %"
        rejection = scene.rejection(traffic.candidate, Reason.ROLLED_BACK, words)
        after = Traffic(traffic.stable, rejected=remembered(traffic.rejected, rejection))
        return Done(after, None, f"{traffic.candidate} was {words}")
    to = named if named != NONE else _former(scene)
    if problem := _not_there(scene, to):
        return Ignored(problem)
    words = f"rolled back by {user} to {to}"
    left = [scene.rejection(each, Reason.ROLLED_BACK, words) for each in (traffic.candidate, traffic.stable) if each]
    rejected = tuple(each for each in remembered(traffic.rejected, *left) if each.revision != to)
    after = Traffic(traffic.stable, candidate=to, step=ROLLBACK, rejected=rejected)
    return Done(after, None, f"{traffic.stable} is {words}")


def _former(scene: _Scene) -> str:
    """Return the revision that was promoted before stable and is on record, unless it was sent back."""
    formers = promoted(scene.observed.status.history, scene.traffic.stable)
    on_record = scene.observed.revisions
    return next((each for each in formers if each in on_record and rejection_of(scene.traffic, each) is None), "")


def _not_there(scene: _Scene, to: str) -> str:
    if not to:
        return "no revision that was promoted before is on record"
    if to == scene.traffic.stable:
        return f"{to} is stable already"
    if to == scene.traffic.candidate:
        return f"{to} is the candidate: promote it"
    if to not in scene.observed.revisions:
        return f"{to} is not on record; there are {', '.join(sorted(scene.observed.revisions)) or 'none'}"
    return ""


_VERBS: dict[Verb, Callable[[_Scene], Done | Ignored]] = {
    Verb.PROMOTE: _promote,
    Verb.APPROVE: _approve,
    Verb.ABORT: _abort,
    Verb.RETRY: _retry,
    Verb.PAUSE: _pause,
    Verb.RESUME: _resume,
    Verb.ROLLBACK: _rollback,
}

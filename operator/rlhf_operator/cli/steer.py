"""Turns a verb into the command that fits the rollout as it stands. Pure: sending it is main's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_operator.api.rolloutstatus import PolicyRolloutStatus
from rlhf_operator.common.commands import ANNOTATION, NONE, CommandWords, NotACommand, Verb, parse
from rlhf_operator.errors import OperatorError


class Refused(OperatorError):
    """The verb makes no sense as the rollout stands. The message says what would."""


def command(
    verb: Verb, status: PolicyRolloutStatus, user: str, identity: str, revision: str | None = None
) -> CommandWords:
    """The command for the rollout as this status shows it.

    revision: the one that is meant; without it the candidate, and for retry the one that was rejected last. Where
        rollback leads without one, the operator knows. It ignores a command whose revision or step is past.
    Raises Refused.
    """
    step = status.step.name if status.step is not None and status.step.name else NONE
    meant = revision or _revision(verb, status)
    if verb is Verb.APPROVE and step == NONE:
        raise Refused("no step is under way, so there is nothing to approve")
    return CommandWords(identity, verb, meant, step, user)


def waiting(annotations: Mapping[str, Any], status: PolicyRolloutStatus) -> CommandWords | None:
    """A command that was given and that the operator has not looked at yet."""
    try:
        given = parse(str(annotations.get(ANNOTATION) or ""))
    except NotACommand:
        return None
    done = status.last_command is not None and status.last_command.id == given.id
    return None if done else given


def _revision(verb: Verb, status: PolicyRolloutStatus) -> str:
    candidate = _revision_of(status, "Candidate")
    if verb is Verb.ROLLBACK:
        return NONE
    if verb is Verb.RETRY and candidate is None:
        rejected = sorted(status.rejected, key=lambda each: each.at.timestamp() if each.at is not None else 0.0)
        if not rejected:
            raise Refused("no revision was rejected and none is under way: name the one to try by --revision")
        return rejected[-1].revision
    if candidate is None:
        stable = _revision_of(status, "Stable")
        raise Refused(f"there is no candidate to {verb}; the stable revision is {stable or 'none yet'}")
    return candidate


def _revision_of(status: PolicyRolloutStatus, name: str) -> str | None:
    """The revision that is Stable or Candidate."""
    return next((each.revision for each in status.variants if each.name == name and each.revision), None)

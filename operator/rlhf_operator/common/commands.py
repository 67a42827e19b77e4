"""The annotation by which people steer a rollout: its words. Who may is admission's, what follows the controller's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

ANNOTATION = "rlhf.dev/command"
NONE = "-"
"""Stands for no step, or for the revision that goes without saying."""
USAGE = "<id> <verb> <revision> <step> <user>"
LONGEST = 1024
_WORD = re.compile(r"[!-~]{1,253}")


class Verb(StrEnum):
    """What a command asks for."""

    PROMOTE = "promote"
    APPROVE = "approve"
    ABORT = "abort"
    RETRY = "retry"
    PAUSE = "pause"
    RESUME = "resume"
    ROLLBACK = "rollback"


class NotACommand(ValueError):
    """A value of the annotation that no command can be read from."""


@dataclass(frozen=True, slots=True)
class CommandWords:
    """One command. Words instead of JSON, because admission's CEL reads no JSON."""

    id: str
    """Chosen by the sender; a command is carried out once per id."""
    verb: Verb
    revision: str
    """The candidate it is meant for, or for rollback the revision to go back to."""
    step: str
    user: str
    """Who sends it, as the API server knows them. The last word: it may contain spaces."""

    def __str__(self) -> str:
        return f"{self.id} {self.verb} {self.revision} {self.step} {self.user}"


def parse(text: str) -> CommandWords:
    """The command in an annotation's value. Raises NotACommand."""
    words = text.split(" ", 4)
    if len(text) > LONGEST or len(words) != 5 or not words[4] or not words[4].isprintable():
        raise NotACommand(f"{ANNOTATION} is {USAGE!r}; use kubectl rlhf")
    for word in words[:4]:
        if not _WORD.fullmatch(word):
            raise NotACommand(f"{ANNOTATION} is {USAGE!r}, with single spaces between the words; use kubectl rlhf")
    try:
        verb = Verb(words[1])
    except ValueError:
        raise NotACommand(f"{ANNOTATION}: {words[1][:40]!r} is none of {', '.join(Verb)}") from None
    return CommandWords(words[0], verb, words[2], words[3], words[4])

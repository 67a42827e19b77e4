"""The events of one reconcile: transitions between the recorded status and the one to be written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_operator.api.rewardmodel import RewardModelStatus
from rlhf_operator.common.conditions import as_recorded, find
from rlhf_operator.common.intents import Event
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.decision import Decision
from rlhf_operator.runs.events import attempt_events

TOLD = ("Trained", "Evaluated", "Serving", "Ready", "Stalled")
BAD = frozenset({Reason.GATE_FAILED, Reason.VERSION_NOT_READY, Reason.NO_POD_ANSWERS, Reason.AUTOSCALING_UNAVAILABLE})
QUIET = frozenset(
    {
        Reason.NOT_TRAINED,
        Reason.EVALUATION_PENDING,
        Reason.NOT_EVALUATED,
        Reason.NO_VERSION,
        Reason.SERVING_DISABLED,
    }
)
"""Reasons that say only that nothing has happened yet."""


def transitions(before: RewardModelStatus, decision: Decision | None, after: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return what has happened since the recorded status, in the words of the conditions."""
    attempts = before.run.attempts if before.run is not None else []
    ended = attempt_events(attempts, decision.ledger) if decision is not None else ()
    return (*ended, *_conditions(before, after), *_switches(before, after))


def _conditions(before: RewardModelStatus, after: Mapping[str, Any]) -> Iterator[Event]:
    conditions = as_recorded(after.get("conditions", ()))
    for name in TOLD:
        new, old = find(conditions, name), find(before.conditions, name)
        if new is None or new.reason in QUIET:
            continue
        if old is not None and (old.status, old.reason) == (new.status, new.reason):
            continue
        if name in ("Trained", "Ready", "Stalled") and new.status != "True":
            # What keeps it is told by attempts, or by Stalled.
            continue
        if name == "Stalled" and any(
            each.message == new.message and (find(before.conditions, each.type) or each).reason != each.reason
            for each in conditions
            if each.type in ("Evaluated", "Serving")
        ):
            # The condition that changed has told it.
            continue
        alarming = name == "Stalled" or new.reason in BAD or (name == "Serving" and new.status != "True")
        normal = not alarming or new.reason == Reason.STARTING
        yield Event("Normal" if normal else "Warning", new.reason, new.message)


def _switches(before: RewardModelStatus, after: Mapping[str, Any]) -> Iterator[Event]:
    new, old = after.get("servedVersion"), before.served_version
    if new is not None and old is not None and new != old:
        yield Event("Normal", Reason.SWITCHED, f"{after.get('url')} leads to version {new} now, before to {old}")

"""Where a rollout stands among the spec's steps, also when those were edited under way; what each stage sends. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf_operator.api.rolloutstrategy import Step

from .views import BAKE, PROMOTE, ROLLBACK, STARTING, Traffic

Headers = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the route's mark lies in the steps as they are now."""

    index: int
    """-1 before the first step, len(steps) behind the last."""
    name: str
    step: Step | None
    """The step's settings; None before the first, while baking, and where edits left nothing of it."""

    @property
    def has_traffic(self) -> bool:
        """Whether the stage is one in which the candidate may get requests by the spec."""
        return self.name not in ("", STARTING, ROLLBACK, PROMOTE)


def locate(traffic: Traffic, steps: Sequence[Step]) -> Place:
    """Return the place of the route's mark.

    A step is found by its name. If it is gone, the candidate stands at the first step whose weight is not below its
    own, and behind the last when there is none: an edit never takes weight away.
    """
    if traffic.index < 0 or traffic.step in (STARTING, ROLLBACK):
        return Place(-1, traffic.step, None)
    if traffic.step in (BAKE, PROMOTE):
        return Place(len(steps), traffic.step, None)
    for index, step in enumerate(steps):
        if step.name == traffic.step:
            return Place(index, step.name, step)
    for index, step in enumerate(steps):
        if step.weight is not None and step.weight >= traffic.goal:
            return Place(index, traffic.step, step)
    return Place(len(steps), traffic.step, None)


def weight_at(steps: Sequence[Step], index: int) -> int:
    """Return the candidate's percentage at a step: one that sets none keeps that of the steps before it."""
    return max((step.weight for step in steps[: index + 1] if step.weight is not None), default=0)


def ladder(steps: Sequence[Step], goal: int) -> list[int]:
    """Return the weights that are stages on the way to `goal`, rising, from 0."""
    return sorted({0, goal} | {step.weight for step in steps if step.weight is not None and step.weight < goal})


def entered(traffic: Traffic, steps: Sequence[Step], index: int) -> Traffic:
    """Return the route's marks at a stage, with the goal that it is let through to; the weight is as it was."""
    if index >= len(steps):
        return replace(traffic, step=BAKE, index=len(steps), goal=100, mirror=0, headers=())
    goal = max(weight_at(steps, index), traffic.goal)
    return replace(traffic, step=steps[index].name, index=index, goal=goal)


def following(traffic: Traffic, steps: Sequence[Step]) -> Traffic:
    """Return the marks of the stage behind the one under way."""
    place = locate(traffic, steps)
    if place.step is not None and (place.name != place.step.name or weight_at(steps, place.index) > traffic.goal):
        # The step was edited: what it asks for now was not reached yet.
        return entered(traffic, steps, place.index)
    return entered(traffic, steps, place.index + 1)


def mirror_of(place: Place) -> int:
    """Return the percentage that a stage mirrors."""
    return place.step.mirror.percent if place.step is not None and place.step.mirror is not None else 0


def headers_of(place: Place) -> Headers:
    """Return the header match of a stage."""
    return _headers(place.step)


def first_headers(steps: Sequence[Step]) -> Headers:
    """Return the header match of the first step that has one."""
    return next((found for found in map(_headers, steps) if found), ())


def _headers(step: Step | None) -> Headers:
    if step is None or step.match is None:
        return ()
    return tuple((each.name, each.value, each.type.value) for each in step.match.headers)

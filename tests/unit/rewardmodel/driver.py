"""Reconciles a `World` until nothing is left to do, and keeps what was told."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from rlhf_operator.common.intents import Event, OperatorDefaults, Plan
from rlhf_operator.common.resources import ENDPOINTSLICES
from rlhf_operator.rewardmodel.observe import observe
from rlhf_operator.rewardmodel.reconcile import reconcile

from .factory import DEFAULTS, OWNER, World, digest_of

PASSES = 20
T = TypeVar("T")


def at_once(reading: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing: a World answers at once, and an event loop takes its time."""
    try:
        reading.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("this reads from somewhere else")


@dataclass
class Driver:
    """The controller's part."""

    world: World = field(default_factory=World)
    events: list[Event] = field(default_factory=list)
    defaults: OperatorDefaults = DEFAULTS
    saw: list[dict[str, Any]] = field(default_factory=list)
    """The EndpointSlices of the last look."""

    def look(self) -> Plan:
        """One pass, executed."""
        world = self.world
        self.saw = world.mentioning(ENDPOINTSLICES, OWNER.namespace, OWNER.kind, OWNER.name)
        observed = at_once(observe(world.manifest, world, self.defaults, lambda: world.now))
        plan = reconcile(observed, world.now)
        wrote = plan.status is not None and dict(plan.status) != world.status
        world.execute(plan)
        if wrote:
            self.events += plan.events
        return plan

    def die_after(self, writes: int) -> None:
        """One pass of an operator that is killed after so many writes: the status is never written."""
        world = self.world
        plan = reconcile(at_once(observe(world.manifest, world, self.defaults, lambda: world.now)), world.now)
        created = max(0, writes - len(plan.apply))
        deleted = max(0, created - len(plan.create))
        world.execute(Plan(plan.apply[:writes], plan.create[:created], plan.delete[:deleted]))

    def settle(self) -> Plan:
        """Passes until nothing changes; within the same moment."""
        before = None
        for _ in range(PASSES):
            plan = self.look()
            now = repr((self.world.status, sorted(self.world.objects), self.world.leads_to()))
            if now == before:
                return plan
            before = now
        raise AssertionError(f"still changing after {PASSES} passes: {self.world.status}")

    def make(self, name: str, gate: str = "Passed") -> Plan:
        """A version from the first look to the verdict."""
        self.settle()
        self.world.train()
        self.settle()
        self.world.publish(name, gate)
        return self.settle()

    def serve(self, name: str) -> Plan:
        """Its pods answer, and the former ones have gone."""
        self.world.answer(deployment(name))
        self.settle()
        self.world.later(seconds=61)
        return self.settle()

    def made_and_served(self, name: str) -> None:
        """All of it."""
        self.make(name)
        self.serve(name)

    def wait(self, seconds: float) -> Plan:
        """Time passes, and is looked at."""
        self.world.now += timedelta(seconds=seconds)
        return self.settle()


def tag(name: str) -> str:
    """A version's tag, by any name."""
    return digest_of(name).removeprefix("sha256:")[:10]


def deployment(name: str) -> str:
    """The name of a version's children."""
    return f"{OWNER.name}-{tag(name)}"

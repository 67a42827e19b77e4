"""The operator killed with SIGKILL at every write of a rollout, before it and after it: each ends as one undisturbed.

The pods' kubelet and the gateway are played; the kill is exact, as the front before the API server counts the writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from opkit.front import Due, Front, Write
from opkit.process import OperatorProcess
from rlhf_operator.common.resources import POLICYROLLOUTS
from testbed.bed import Bed

from .conftest import FAST, World, opened
from .staging import Story, differences, end_state, events, promoted, rolled_back, settled

LANES = 4
"""Namespaces in which rollouts are told side by side: most of a story is waiting."""


@dataclass(frozen=True)
class Case:
    """A kill: at which write, told by what it changes and its number among these, as others come by chance."""

    kind: str
    occurrence: int
    answered: bool

    def __str__(self) -> str:
        return f"killed {'after' if self.answered else 'before'} {self.kind}, number {self.occurrence}"

    def comes(self, name: str) -> Due:
        """Whether a write is the one, in a rollout of this name."""
        seen = 0

        def due(write: Write) -> bool:
            nonlocal seen
            seen += kind(name, write) == self.kind
            return seen == self.occurrence

        return due


@dataclass
class Scene:
    """A namespace whose operator writes through a front, and is started again whenever it was killed."""

    world: World
    front: Front
    folder: Path
    lives: list[OperatorProcess] = field(default_factory=list)
    count: int = 0
    killed: bool = False
    """Whether it was, in the rollout told last."""

    def start(self) -> None:
        """Another life."""
        folder = self.folder / f"life-{len(self.lives)}"
        settings = FAST | {"NAMESPACES": self.world.namespace}
        self.lives.append(OperatorProcess(folder, self.front.kubeconfig, settings=settings))

    def kill(self) -> None:
        """SIGKILL, and another life."""
        self.killed = True
        self.lives[-1].kill()
        self.start()

    def tell(self, story: Story, case: Case | None = None) -> str:
        """One rollout from nothing to its end, the operator killed at a write; returns its name."""
        self.count += 1
        name, self.killed = f"rollout-{self.count:03d}", False
        self.world.kubelet.unready = frozenset()
        due = case.comes(name) if case is not None else lambda _: False
        self.front.kill_when(due, self.kill, answered=case is not None and case.answered)
        story(self.world, name)
        return name


@contextmanager
def set_up(bed: Bed, folder: Path) -> Iterator[Scene]:
    """A scene whose operator has started."""
    with opened(bed, "writes") as world, Front(bed.kubeconfig, folder) as front:
        scene = Scene(world, front, folder)
        scene.start()
        yield scene
        scene.lives[-1].kill()
    for life in scene.lives:
        assert "Traceback" not in life.log(), life.log()


@dataclass
class Matrix:
    """What an undisturbed rollout leaves, and what those did that were not."""

    story: Story
    wanted: Any
    told: list[str]
    cases: Queue[Case] = field(default_factory=Queue)
    hit: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def lane(self, scene: Scene) -> None:
        """Take cases until there are none."""
        with suppress(Empty):
            while True:
                self._tell(scene, self.cases.get_nowait())

    def _tell(self, scene: Scene, case: Case) -> None:
        world = scene.world
        try:
            name = scene.tell(self.story, case)
        except TimeoutError as error:
            self.wrong.append(f"{case}: {error}")
            return
        if scene.killed:
            self.hit.add(case.kind)
        try:
            world.wait("its end", lambda: end_state(world, name) == self.wanted, 20)
        except TimeoutError:
            self.wrong.append(f"{case}: {differences(end_state(world, name), self.wanted)}")
        said = events(world, name)
        if len(said) > len(set(said)) or not set(said) <= set(self.told):
            self.wrong.append(f"{case}: said {said}, and undisturbed {self.told}")
        world.api.delete(POLICYROLLOUTS, world.namespace, name)


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("story", [promoted, rolled_back])
def test_an_operator_killed_at_any_write_of_a_rollout_ends_it_as_one_that_is_not(
    bed: Bed, tmp_path: Path, story: Story, every: int
) -> None:
    with ExitStack() as stack:
        lanes = [stack.enter_context(set_up(bed, tmp_path / str(lane))) for lane in range(LANES)]
        name = lanes[0].tell(story)
        matrix = Matrix(story, settled(lanes[0].world, name), events(lanes[0].world, name))
        seen: Counter[str] = Counter()
        for number, each in enumerate([kind(name, write) for write in lanes[0].front.writes]):
            seen[each] += 1
            if number % every == 0:
                for answered in (False, True) if every == 1 else (number % 2 == 1,):
                    matrix.cases.put(Case(each, seen[each], answered))
        with ThreadPoolExecutor(LANES) as pool:
            list(pool.map(matrix.lane, lanes))
    assert not matrix.wrong, "\n".join(matrix.wrong)
    assert len(matrix.told) == len(set(matrix.told)), matrix.told
    assert every > 1 or matrix.hit == set(seen), f"no kill at {set(seen) - matrix.hit}"


def kind(name: str, write: Write) -> str:
    """Method and object."""
    return f"{write.method} {write.path.rpartition('/namespaces/')[2].partition('/')[2]}".replace(name, "ROLLOUT")

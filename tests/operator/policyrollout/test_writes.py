"""The operator killed with SIGKILL at every write of a rollout, before it and after it: each ends as one undisturbed.

The pods' kubelet and the gateway are played; the kill is exact, as the front before the API server counts the writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from opkit.front import Front, Write
from opkit.process import OperatorProcess
from rlhf_operator.common.resources import POLICYROLLOUTS
from testbed.bed import Bed

from .conftest import FAST, World, opened
from .staging import Story, differences, end_state, events, promoted, rolled_back, settled

LANES = 4
"""Namespaces in which rollouts are told side by side: most of a story is waiting."""


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

    def tell(self, story: Story, number: int = 0, *, answered: bool = False) -> tuple[str, list[Write]]:
        """One rollout from nothing to its end, the operator killed at a write; returns its name and all writes."""
        self.count += 1
        name, self.killed = f"rollout-{self.count:03d}", False
        self.world.kubelet.unready = frozenset()
        self.front.kill_when(lambda count, _: count == number, self.kill, answered=answered)
        story(self.world, name)
        return name, self.front.writes


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
    writes: list[str]
    cases: Queue[tuple[int, bool]]
    hit: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def lane(self, scene: Scene) -> None:
        """Take cases until there are none."""
        with suppress(Empty):
            while True:
                self._case(scene, *self.cases.get_nowait())

    def _case(self, scene: Scene, number: int, answered: bool) -> None:
        at = f"killed {'after' if answered else 'before'} write {number} of {len(self.writes)}"
        try:
            name, made = scene.tell(self.story, number, answered=answered)
        except TimeoutError as error:
            self.wrong.append(f"{at}: {error}")
            return
        if scene.killed:
            self.hit.add(kind(name, made[number - 1]))
            at += f", {kind(name, made[number - 1])}"
        try:
            scene.world.wait("its end", lambda: end_state(scene.world, name) == self.wanted, 20)
        except TimeoutError:
            self.wrong.append(f"{at}: {differences(end_state(scene.world, name), self.wanted)}")
        said = events(scene.world, name)
        if len(said) > len(set(said)) or not set(said) <= set(self.told):
            self.wrong.append(f"{at}: said {said}, and undisturbed {self.told}")
        scene.world.api.delete(POLICYROLLOUTS, scene.world.namespace, name)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("story", [promoted, rolled_back])
def test_an_operator_killed_at_any_write_of_a_rollout_ends_it_as_one_that_is_not(
    bed: Bed, tmp_path: Path, story: Story, every: int
) -> None:
    with ExitStack() as stack:
        lanes = [stack.enter_context(set_up(bed, tmp_path / str(lane))) for lane in range(LANES)]
        name, made = lanes[0].tell(story)
        cases: Queue[tuple[int, bool]] = Queue()
        matrix = Matrix(
            story,
            settled(lanes[0].world, name),
            events(lanes[0].world, name),
            [kind(name, each) for each in made],
            cases,
        )
        for number in range(1, len(made) + 1, every):
            for answered in (False, True) if every == 1 else (number % 2 == 0,):
                cases.put((number, answered))
        with ThreadPoolExecutor(LANES) as pool:
            list(pool.map(matrix.lane, lanes))
    assert not matrix.wrong, "\n".join(matrix.wrong)
    assert len(matrix.told) == len(set(matrix.told)), matrix.told
    assert every > 1 or matrix.hit == set(matrix.writes), f"no kill at {set(matrix.writes) - matrix.hit}"


def kind(name: str, write: Write) -> str:
    """Method and object."""
    return f"{write.method} {write.path.rpartition('/namespaces/')[2].partition('/')[2]}".replace(name, "ROLLOUT")

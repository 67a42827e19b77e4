"""Two replicas and a rollout under way: the leader is killed, the other one goes on, and no write comes from both."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from opkit.clock import COMMAND, OFF
from opkit.front import Due, Front, Write
from opkit.process import OperatorProcess, busy, wait_for
from testbed.bed import Bed

from .conftest import FAST, opened
from .staging import end_state, events, promoted, settled

pytestmark = pytest.mark.timeout(300)

LEASE_SECONDS, RETRY_SECONDS = 6, 1
MARGIN_SECONDS = 1.5
"""What the machine may add: looks of the test, a process that is not scheduled at once."""
LEASE = {
    "LEADER_ELECTION": "true",
    "LEASE_DURATION_SECONDS": str(LEASE_SECONDS),
    "LEASE_RENEW_DEADLINE_SECONDS": "4",
    "LEASE_RETRY_SECONDS": str(RETRY_SECONDS),
}


def step(write: Write) -> str | None:
    """The step that a write of the route marks; None for other writes."""
    if write.method != "PATCH" or "/httproutes/" not in write.path:
        return None
    found: str | None = (json.loads(write.body)["metadata"].get("annotations") or {}).get("rlhf.dev/step")
    return found


def comes_to(mark: str, after: str) -> Due:
    """At the first write of the route that marks one step after another was marked."""
    seen: list[str | None] = []

    def due(write: Write) -> bool:
        seen.append(step(write))
        return seen[-1] == mark and after in seen

    return due


@pytest.mark.parametrize(
    ("mark", "after", "answered", "off"),
    [
        pytest.param("1 ten", "0 shadow", True, -600, id="in mid-step, to one whose clock is ten minutes behind"),
        pytest.param("", "2 bake", False, 600, id="before the promotion, to one whose clock is ten minutes ahead"),
        pytest.param("", "2 bake", True, 0, id="after the promotion"),
    ],
)
def test_a_leader_that_is_killed_is_followed_within_its_lease_and_the_rollout_ends_as_ever(
    bed: Bed, tmp_path: Path, mark: str, after: str, answered: bool, off: int
) -> None:
    with ExitStack() as stack:
        world = stack.enter_context(opened(bed, "replicas"))
        settings = FAST | LEASE | {"NAMESPACES": world.namespace, "LEASE_NAMESPACE": world.namespace}
        fronts: list[Front] = []
        replicas: list[OperatorProcess] = []
        for name, wrong in (("leader", 0), ("standby", off)):
            front = stack.enter_context(Front(bed.kubeconfig, tmp_path / name))
            identity, clock = {"IDENTITY": name}, {OFF: str(wrong)}
            replica = OperatorProcess(
                tmp_path / name, front.kubeconfig, command=COMMAND, settings=settings | identity, environment=clock
            )
            stack.enter_context(replica)
            stack.enter_context(replica.sound())
            replica.wait_ready()
            if not replicas:
                wait_for("the first Lease", replica.leads)
            fronts.append(front)
            replicas.append(replica)
        killed: list[float] = []

        def kill() -> None:
            killed.append(time.time())
            replicas[0].kill()

        fronts[0].kill_when(comes_to(mark, after), kill, answered=answered)
        promoted(world, "assistant")
        assert killed, "the leader was not killed"
        took = held_since(replicas[1]) - off - killed[0]
        assert busy() or took <= LEASE_SECONDS + RETRY_SECONDS + MARGIN_SECONDS
        assert fronts[1].writes, "the standby had nothing to do"
        assert fronts[1].writes[0].at > fronts[0].writes[-1].at, "both wrote"
        found, said = settled(world, "assistant"), events(world, "assistant")
        assert len(said) == len(set(said)), said
        promoted(world, "undisturbed")
        wait_for("the same end", lambda: end_state(world, "undisturbed") == found, 20)


def held_since(process: OperatorProcess) -> float:
    """When it took the Lease, by its log and its clock."""
    told = next(line for line in process.log().splitlines() if "holding the Lease" in line)
    return datetime.fromisoformat(json.loads(told)["time"]).timestamp()

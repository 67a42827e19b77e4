"""Leader election with a server and a clock that the tests hold in their hands."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rlhf_operator.errors import Conflict, LeadershipLost, NotFound, Unreachable
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.runtime.lease import Elector, LeaseConfig

DURATION, DEADLINE, RETRY = 15, 10.0, 2.0


class Clock:
    """Moved by the sleeps of what is tested."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Server:
    """One Lease with optimistic locking; `down` answers nothing."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False

    async def get(self, *_: object) -> dict[str, Any]:
        self._reachable()
        if self.lease is None:
            raise NotFound(404, "NotFound", "no lease")
        return copy.deepcopy(self.lease)

    async def create(self, _: object, body: dict[str, Any]) -> dict[str, Any]:
        self._reachable()
        if self.lease is not None:
            raise Conflict(409, "AlreadyExists", "there is one")
        return self._store(body)

    async def replace(self, _: object, body: dict[str, Any]) -> dict[str, Any]:
        self._reachable()
        if self.lease is None or body["metadata"].get("resourceVersion") != str(self.version):
            raise Conflict(409, "Conflict", "another version")
        return self._store(body)

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = {"metadata": {**body["metadata"], "resourceVersion": str(self.version)}, "spec": body["spec"]}
        return copy.deepcopy(self.lease)

    def _reachable(self) -> None:
        if self.down:
            raise Unreachable("nobody answers")

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


@pytest.fixture
def clock() -> Clock:
    return Clock()


def elector(server: Server, clock: Clock, identity: str, predecessor: str | None = None) -> Elector:
    client: KubeClient = server  # type: ignore[assignment]
    return Elector(client, LeaseConfig("n", "l", identity, DURATION, DEADLINE, RETRY, predecessor), clock, clock.sleep)


def run(awaitable: Awaitable[None]) -> None:
    async def main() -> None:
        await awaitable

    asyncio.run(main())


def test_the_first_one_takes_a_lease_that_nobody_made(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock, "one")
    assert not one.holds()
    run(one.acquire())
    assert one.holds()
    assert server.holder == "one"


def test_a_lease_that_its_holder_left_to_run_out_is_taken_after_its_duration_and_not_before(clock: Clock) -> None:
    server = Server()
    run(elector(server, clock, "one").acquire())
    began = clock.now
    run(elector(server, clock, "two").acquire())
    assert began + DURATION - RETRY <= clock.now <= began + DURATION + RETRY
    assert server.holder == "two"
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


def test_nobody_takes_over_while_the_old_leader_may_still_write(clock: Clock) -> None:
    server = Server()
    one, two = elector(server, clock, "one"), elector(server, clock, "two")
    run(one.acquire())
    # The standby has watched it renew until now.
    for _ in range(3):
        clock.now += RETRY
        asyncio.run(one._renew())
        assert not asyncio.run(two._try_acquire())
    run(two.acquire())
    assert not one.holds()


def test_a_leader_that_cannot_renew_stops_writing_at_its_deadline(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock, "one")
    run(one.acquire())
    acquired = clock.now
    server.down = True
    with pytest.raises(LeadershipLost, match="not renewed"):
        run(one.hold())
    assert clock.now <= acquired + DEADLINE + RETRY
    assert not one.holds()
    assert clock.now < acquired + DURATION


def test_time_alone_ends_the_right_to_write(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock, "one")
    run(one.acquire())
    clock.now += DEADLINE
    assert not one.holds(), "though nothing ran meanwhile: the process slept"


def test_a_short_outage_is_survived(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    one = elector(server, clock, "one")
    run(one.acquire())
    original: Callable[..., Awaitable[dict[str, Any]]] = server.replace
    calls = 0

    async def flaky(*arguments: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls in (1, 2):
            raise Unreachable("a moment")
        if calls == 5:
            server.lease = None
        return await original(*arguments)

    monkeypatch.setattr(server, "replace", flaky)

    async def some_renewals() -> None:
        for _ in range(4):
            clock.now += RETRY
            try:
                await one._renew()
            except Unreachable:
                assert one.holds()

    run(some_renewals())
    assert one.holds()


def test_anothers_name_in_the_lease_ends_it(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock, "one")
    run(one.acquire())
    assert server.lease is not None
    server.lease["spec"]["holderIdentity"] = "usurper"
    server.version += 1
    server.lease["metadata"]["resourceVersion"] = str(server.version)
    with pytest.raises(LeadershipLost, match="held by usurper"):
        run(one.hold())
    assert not one.holds()


def test_a_label_that_somebody_put_on_the_lease_does_not_end_it(clock: Clock) -> None:
    server = Server()
    one = elector(server, clock, "one")
    run(one.acquire())
    assert server.lease is not None
    server.version += 1
    server.lease["metadata"] |= {"resourceVersion": str(server.version), "labels": {"a": "b"}}
    clock.now += RETRY
    run(one._renew())
    assert one.holds()
    assert server.lease["metadata"]["labels"] == {"a": "b"}


def test_a_released_lease_is_free_at_once(clock: Clock) -> None:
    server = Server()
    one, two = elector(server, clock, "one"), elector(server, clock, "two")
    run(one.acquire())
    run(one.release())
    assert not one.holds()
    began = clock.now
    run(two.acquire())
    assert clock.now == began


def test_a_lost_lease_is_not_released_for_its_new_holder(clock: Clock) -> None:
    server = Server()
    one, two = elector(server, clock, "one"), elector(server, clock, "two")
    run(one.acquire())
    run(two.acquire())
    run(one.release())
    assert server.holder == "two"


def test_only_a_predecessor_in_the_same_pod_is_known_to_be_dead(clock: Clock) -> None:
    server = Server()
    run(elector(server, clock, "pod-1_former").acquire())
    began = clock.now
    run(elector(server, clock, "pod-1_new", predecessor="pod-1_").acquire())
    assert clock.now == began
    run(elector(server, clock, "pod-11_new", predecessor="pod-11_").acquire())
    assert clock.now >= began + DURATION - RETRY

"""List and watch against a scripted server: what is taken over, what is told, and what happens when it goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from rlhf_operator.common.resources import CONFIGMAPS
from rlhf_operator.errors import Forbidden, Gone, KubeError, NotFound, TimedOut, Unreachable
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.reflector import Reflector, WatchState, WatchTimes
from rlhf_operator.kube.store import Store
from rlhf_operator.runtime.health import liveness_problems, readiness_problems

Object = dict[str, Any]
Step = Object | KubeError


def obj(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "namespace": "n", "uid": f"u-{name}", "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> Object:
    return {"type": kind, "object": obj(name, version)}


class Server:
    """Lists and watches that were written down before; silent after the last."""

    def __init__(self, lists: Sequence[Sequence[Object] | KubeError], watches: Sequence[Sequence[Step]]) -> None:
        self._lists, self._watches = list(lists), list(watches)
        self.listed = 0
        self.watched_from: list[str] = []

    async def list_page(self, *_: object) -> Object:
        self.listed += 1
        answer = self._lists.pop(0) if self._lists else Unreachable("no more lists")
        if isinstance(answer, KubeError):
            raise answer
        newest = max((int(o["metadata"]["resourceVersion"]) for o in answer), default=1)
        return {"metadata": {"resourceVersion": str(newest)}, "items": list(answer)}

    async def watch(self, _: object, __: object, version: str, *___: object, **____: object) -> AsyncIterator[Any]:
        self.watched_from.append(version)
        yield ()
        if not self._watches:
            await asyncio.Event().wait()
        for step in self._watches.pop(0):
            if isinstance(step, KubeError):
                raise step
            yield [step]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def follow(
    server: Server, until: Callable[[Reflector], bool], *, optional: bool = False, clock: Clock | None = None
) -> tuple[Reflector, Store, list[str]]:
    """Run a reflector until something holds of it."""
    store, told = Store(CONFIGMAPS), list[str]()
    client: KubeClient = server  # type: ignore[assignment]
    reflector = Reflector(
        client,
        store,
        namespace="n",
        selector=None,
        optional=optional,
        on_change=lambda resource, key, entry: told.append(key[1]),
        on_state=lambda reflector: None,
        times=WatchTimes(timeout=10, silence=5, unhealthy=10),
        one_page=asyncio.Semaphore(1),
        clock=clock or Clock(),
    )
    task = asyncio.create_task(reflector.run())
    async with asyncio.timeout(20):
        # A state that is polled: the reflector's own sleeps are what is waited for.
        while not until(reflector):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return reflector, store, told


def names(store: Store) -> set[str]:
    return {name for _, name in store}


async def test_a_list_and_then_changes_are_taken_over_and_told() -> None:
    server = Server([[obj("a", 1), obj("b", 2)]], [[event("ADDED", "c", 3), event("DELETED", "a", 4)]])
    reflector, store, told = await follow(server, lambda r: len(server.watched_from) == 2)
    assert names(store) == {"b", "c"}
    assert told == ["a", "b", "c", "a"]
    assert server.watched_from == ["2", "4"], "the next watch goes on where the last one ended"
    assert reflector.usable


async def test_an_event_that_is_already_known_is_not_told() -> None:
    server = Server([[obj("a", 5)]], [[event("MODIFIED", "a", 5), event("BOOKMARK", "x", 9)]])
    _, store, told = await follow(server, lambda r: len(server.watched_from) == 2)
    assert told == ["a"]
    assert names(store) == {"a"}
    assert server.watched_from == ["5", "9"], "a bookmark moves the place to go on from"


@pytest.mark.parametrize("how", ["event", "answer"])
async def test_a_version_that_is_too_old_makes_a_new_list_and_deletions_between_are_told(how: str) -> None:
    expired: Step = Gone(410, "Expired", "too old")
    if how == "event":
        expired = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    server = Server([[obj("a", 1), obj("b", 2)], [obj("b", 2), obj("c", 9)]], [[expired]])
    _, store, told = await follow(server, lambda r: len(server.watched_from) == 2)
    assert names(store) == {"b", "c"}
    assert told == ["a", "b", "c", "a"], "the deletion of a was missed by the watch and found by the list"


async def test_a_broken_stream_is_taken_up_where_it_broke_without_a_list() -> None:
    server = Server([[obj("a", 1)]], [[event("ADDED", "b", 7), Unreachable("reset")]])
    reflector, store, _ = await follow(server, lambda r: len(server.watched_from) == 2)
    assert (server.listed, server.watched_from) == (1, ["1", "7"])
    assert names(store) == {"a", "b"}
    assert reflector.state is WatchState.WATCHING


async def test_missing_permission_and_a_missing_api_are_named_and_kept_apart_from_silence() -> None:
    forbidden = Server([Forbidden(403, "Forbidden", "cannot list configmaps")], [])
    reflector, _, _ = await follow(forbidden, lambda r: r.state is WatchState.FORBIDDEN)
    assert "cannot list configmaps" in readiness_problems([reflector])[0]
    assert liveness_problems([reflector]) == []

    absent = Server([NotFound(404, "NotFound", "")], [])
    reflector, _, _ = await follow(absent, lambda r: r.state is WatchState.ABSENT)
    assert "absent" in readiness_problems([reflector])[0]


async def test_an_optional_api_may_be_absent() -> None:
    server = Server([NotFound(404, "NotFound", "")], [])
    reflector, _, _ = await follow(server, lambda r: r.state is WatchState.ABSENT, optional=True)
    assert readiness_problems([reflector]) == []


async def test_silence_is_unhealthy_after_its_time_and_refusal_never() -> None:
    clock = Clock()
    silent = Server([[obj("a", 1)]], [[TimedOut("nothing came")]])
    reflector, _, _ = await follow(silent, lambda r: r.state is WatchState.SILENT, clock=clock)
    assert liveness_problems([reflector]) == []
    clock.now = 10.5
    assert "silent" in liveness_problems([reflector])[0]
    assert readiness_problems([reflector])
    assert not reflector.usable

    clock = Clock()
    refusing = Server([[obj("a", 1)]], [[Unreachable("connection refused")]])
    reflector, _, _ = await follow(refusing, lambda r: r.state is WatchState.UNREACHABLE, clock=clock)
    clock.now = 10.5
    assert liveness_problems([reflector]) == []
    assert readiness_problems([reflector])

"""What is watched when: an optional API only while an object needs it, and no more of an object than is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

from rlhf_operator.common.intents import Plan, WriteFailure
from rlhf_operator.common.reader import Child, ReadFailed
from rlhf_operator.common.resources import JOBS, RLHFJOBS, WORKLOADS, Resource
from rlhf_operator.errors import NotFound
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.reflector import WatchState, WatchTimes
from rlhf_operator.runtime.caches import Caches
from rlhf_operator.runtime.health import liveness_problems, readiness_problems

Object = dict[str, Any]


def obj(name: str, version: int, **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "n", "uid": f"u-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": spec}


def without_template(job: Object) -> None:
    job["spec"].pop("template", None)


class Controller:
    """A kind whose objects may need an optional API."""

    resource = RLHFJOBS
    children = (
        Child(JOBS, trim=without_template),
        Child(WORKLOADS, selector=None, optional=True, sought_by=lambda each: "queue" in each["spec"]),
    )

    async def observe(self, obj: Any, reader: Any) -> Any:
        return obj

    def reconcile(self, observed: Any, now: datetime) -> Plan:
        return Plan()

    def write_failed(self, observed: Any, now: datetime, failure: WriteFailure) -> Plan:
        return Plan()

    def phase(self, obj: Mapping[str, Any]) -> str:
        return ""


class Server:
    """Lists what it holds, sends what is put into its queues, and counts the lists. None: the API is absent."""

    def __init__(self, **held: list[Object] | None) -> None:
        self.held = held
        self.lists: dict[str, int] = dict.fromkeys(held, 0)
        self.events: dict[str, asyncio.Queue[Object]] = {plural: asyncio.Queue() for plural in held}

    async def list_page(self, resource: Resource, *_: object) -> Object:
        self.lists[resource.plural] += 1
        items = self.held[resource.plural]
        if items is None:
            raise NotFound(404, "NotFound", "")
        return {"metadata": {"resourceVersion": "5"}, "items": list(items)}

    async def watch(self, resource: Resource, *_: object, **__: object) -> AsyncIterator[Any]:
        yield ()
        while True:
            yield [await self.events[resource.plural].get()]


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Caches]:
    client: KubeClient = server  # type: ignore[assignment]
    caches = Caches(client, [Controller()], ("n",), WatchTimes(10, 20, 30), lambda *_: None, lambda reflector: None)
    task = asyncio.create_task(caches.run())
    try:
        yield caches
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(caches: Caches, resource: Resource, state: WatchState) -> None:
    (reflector,) = caches.of(resource)
    async with asyncio.timeout(20):
        # A state that is polled: nothing tells of it.
        while reflector.state is not state:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_optional_api_is_looked_for_once_an_object_needs_it() -> None:
    server = Server(rlhfjobs=[obj("plain", 1)], jobs=[], workloads=[])
    async with running(server) as caches:
        await until(caches, RLHFJOBS, WatchState.WATCHING)
        await until(caches, JOBS, WatchState.WATCHING)
        await until(caches, WORKLOADS, WatchState.UNSOUGHT)
        assert caches.ready(Controller()), "what nobody needs is not waited for"
        assert not caches.listed(WORKLOADS)
        assert (readiness_problems(caches.reflectors), liveness_problems(caches.reflectors)) == ([], [])
        assert server.lists["workloads"] == 0
        server.events["rlhfjobs"].put_nowait({"type": "ADDED", "object": obj("queued", 7, queue="research")})
        await until(caches, WORKLOADS, WatchState.WATCHING)
        assert server.lists["workloads"] == 1


async def test_a_kind_is_not_ready_before_what_its_objects_need_is_listed_or_known_to_be_absent() -> None:
    server = Server(rlhfjobs=[obj("queued", 1, queue="research")], jobs=[], workloads=None)
    async with running(server) as caches:
        (reflector,) = caches.of(WORKLOADS)
        caches.stores[RLHFJOBS].upsert(obj("queued", 1, queue="research"))
        assert not reflector.settled
        await until(caches, WORKLOADS, WatchState.ABSENT)
        await until(caches, RLHFJOBS, WatchState.WATCHING)
        await until(caches, JOBS, WatchState.WATCHING)
        assert caches.ready(Controller())


async def test_an_api_that_is_about_to_be_listed_is_not_taken_for_absent() -> None:
    server = Server(rlhfjobs=[], jobs=[], workloads=[])
    async with running(server) as caches:
        await until(caches, RLHFJOBS, WatchState.WATCHING)
        await until(caches, WORKLOADS, WatchState.UNSOUGHT)
        assert not caches.synced(WORKLOADS), "nobody asks for it"
        assert caches.believed(WORKLOADS, "n").get(("n", "any")) is None
        # The first object that needs it comes: until the list is there, nothing is known.
        caches.stores[RLHFJOBS].upsert(obj("queued", 7, queue="research"))
        with pytest.raises(ReadFailed, match="not listed yet"):
            caches.synced(WORKLOADS)
        with pytest.raises(ReadFailed, match="not listed yet"):
            caches.believed(WORKLOADS, "n")
        for reflector in caches.of(WORKLOADS):
            reflector.seek()
        await until(caches, WORKLOADS, WatchState.WATCHING)
        assert caches.synced(WORKLOADS)


async def test_what_no_reader_needs_is_not_kept() -> None:
    server = Server(rlhfjobs=[], jobs=[obj("train", 1, completions=2, template={"spec": {}})], workloads=[])
    async with running(server) as caches:
        await until(caches, JOBS, WatchState.WATCHING)
        kept = caches.stores[JOBS].get(("n", "train"))
        assert kept is not None
        assert kept["spec"] == {"completions": 2}

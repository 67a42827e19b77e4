"""All stores and the reflectors that fill them: which resource is watched where, and whether it may be believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rlhf_operator.common.reader import Child, Controller, ReadFailed
from rlhf_operator.common.resources import Resource
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.reflector import OnChange, Reflector, WatchTimes
from rlhf_operator.kube.store import Entry, ObjectKey, Store


class Caches:
    """One store per resource; one reflector per resource and namespace, or one for the whole cluster."""

    def __init__(
        self,
        client: KubeClient,
        controllers: Iterable[Controller[Any]],
        namespaces: Sequence[str],
        times: WatchTimes,
        on_change: OnChange,
        on_state: Callable[[Reflector], None],
    ) -> None:
        watched: dict[Resource, Child] = {}
        kinds = {controller.resource: controller for controller in controllers}
        for controller in kinds.values():
            for child in (Child(controller.resource, selector=None), *controller.children):
                watched[child.resource] = _both(watched.get(child.resource), child)
        one_page = asyncio.Semaphore(1)
        self.stores = {resource: _store(child, kinds.get(resource)) for resource, child in watched.items()}
        self._primaries = [self.stores[resource] for resource in kinds]
        self._on_change = on_change
        self.reflectors = [
            Reflector(
                client,
                self.stores[resource],
                namespace=namespace,
                selector=child.selector,
                optional=child.optional,
                on_change=self._changed,
                on_state=on_state,
                times=times,
                one_page=one_page,
                sought=partial(self._sought, resource) if child.optional and child.sought_by else _always,
            )
            for resource, child in watched.items()
            for namespace in ((namespaces or (None,)) if resource.namespaced else (None,))
        ]
        self._by_resource: dict[Resource, list[Reflector]] = {}
        for reflector in self.reflectors:
            self._by_resource.setdefault(reflector.resource, []).append(reflector)

    async def run(self) -> None:
        """All reflectors, until cancelled. They share nothing: what stops one leaves the others going."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.reflectors:
                name = f"watch {reflector.resource} {reflector.namespace or ''}".strip()
                group.create_task(reflector.run(), name=name)

    def of(self, resource: Resource) -> Sequence[Reflector]:
        """The reflectors of a resource."""
        return self._by_resource.get(resource, ())

    def listed(self, resource: Resource) -> bool:
        """Whether the resource was listed at least once everywhere it is watched."""
        reflectors = self.of(resource)
        return bool(reflectors) and all(reflector.listed for reflector in reflectors)

    def ready(self, controller: Controller[Any]) -> bool:
        """Whether a controller can observe: its own kind and every child that is not optional is listed.

        An optional child counts once it is known to be absent or is listed, or while no object needs it: never while it
        is only unknown.
        """
        # Which optional children are needed is known once the kind itself is listed.
        return self.listed(controller.resource) and all(
            reflector.settled for child in controller.children for reflector in self.of(child.resource)
        )

    def believed(self, resource: Resource, namespace: str) -> Store:
        """The store, if what it holds for this namespace is no older than allowed. Raises ReadFailed, KeyError."""
        for reflector in self._by_resource[resource]:
            if reflector.namespace not in (None, namespace) or reflector.usable:
                continue
            if reflector.optional and not reflector.listed and reflector.settled:
                continue
            raise ReadFailed(_why(reflector))
        return self.stores[resource]

    def synced(self, resource: Resource) -> bool:
        """Whether the resource is listed; False where its API is absent, or nothing asks for it.

        Raises ReadFailed in the moment in between, when the first object that needs it has come and it is not listed
        yet: what is there must not be taken for absent.
        """
        for reflector in self.of(resource):
            if not reflector.settled:
                raise ReadFailed(_why(reflector))
        return self.listed(resource)

    def _changed(self, resource: Resource, key: ObjectKey, entry: Entry) -> None:
        self._on_change(resource, key, entry)
        for sought in entry.seeks:
            for reflector in self.of(sought):
                reflector.seek()

    def _sought(self, resource: Resource) -> bool:
        return any(store.seeking[resource] > 0 for store in self._primaries)


def _why(reflector: Reflector) -> str:
    """Return why a reflector's store can't be believed."""
    if reflector.problem:
        return reflector.problem
    silent = f"watch of {reflector.resource} has said nothing for too long"
    return silent if reflector.listed else f"{reflector.resource} is not listed yet"


def _always() -> bool:
    return True


def _store(child: Child, controller: Controller[Any] | None) -> Store:
    """A store of children, or of a controller's own kind: that knows phases and what its objects need."""
    if controller is None:
        return Store(child.resource, trim=child.trim)
    optional = [(each.resource, each.sought_by) for each in controller.children if each.sought_by]

    def seeks(obj: Mapping[str, Any]) -> tuple[Resource, ...]:
        return tuple(resource for resource, needs in optional if needs(obj))

    return Store(child.resource, controller.phase, seeks, child.trim)


def _both(known: Child | None, child: Child) -> Child:
    """One watch that serves two controllers: the wider selector, required if one requires it, trimmed if both trim."""
    if known is None:
        return child
    return Child(
        child.resource,
        selector=child.selector if known.selector == child.selector else None,
        optional=known.optional and child.optional,
        sought_by=child.sought_by if known.sought_by else None,
        trim=child.trim if known.trim == child.trim else None,
    )

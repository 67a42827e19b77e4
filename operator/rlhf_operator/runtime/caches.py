"""All stores and the reflectors that fill them: which resource is watched where, and whether it may be believed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf_operator.common.reader import Child, Controller, ReadFailed
from rlhf_operator.common.resources import Resource
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.reflector import OnChange, Reflector, WatchTimes
from rlhf_operator.kube.store import Store


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
        phases: dict[Resource, Callable[[Mapping[str, Any]], str]] = {}
        for controller in controllers:
            phases[controller.resource] = controller.phase
            for child in (Child(controller.resource, selector=None), *controller.children):
                watched[child.resource] = _both(watched.get(child.resource), child)
        one_page = asyncio.Semaphore(1)
        self.stores = {resource: Store(resource, phases.get(resource)) for resource in watched}
        self.reflectors = [
            Reflector(
                client,
                self.stores[resource],
                namespace=namespace,
                selector=child.selector,
                optional=child.optional,
                on_change=on_change,
                on_state=on_state,
                times=times,
                one_page=one_page,
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

        An optional child counts once it is known to be absent or is listed: never while it is only unknown.
        """
        children = (Child(controller.resource), *controller.children)
        return all(
            reflector.listed or (child.optional and reflector.problem)
            for child in children
            for reflector in self.of(child.resource)
        )

    def believed(self, resource: Resource, namespace: str) -> Store:
        """The store, if what it holds for this namespace is no older than allowed. Raises ReadFailed, KeyError."""
        for reflector in self._by_resource[resource]:
            if reflector.namespace not in (None, namespace) or reflector.usable:
                continue
            if reflector.optional and not reflector.listed:
                continue
            raise ReadFailed(reflector.problem or f"watch of {resource} has said nothing for too long")
        return self.stores[resource]


def _both(known: Child | None, child: Child) -> Child:
    """One watch that serves two controllers: the wider selector, and required as soon as one requires it."""
    if known is None:
        return child
    selector = child.selector if known.selector == child.selector else None
    return Child(child.resource, selector=selector, optional=known.optional and child.optional)

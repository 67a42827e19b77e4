"""Carries a plan out: children, then the status, then events. Decides nothing but what need not be sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from rlhf_operator.common.intents import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    OWNER_KIND_LABEL,
    OWNER_NAME_LABEL,
    PAUSED_ANNOTATION,
    Delete,
    Event,
    Manifest,
    Plan,
    WriteAction,
    WriteFailure,
)
from rlhf_operator.common.resources import POLICYROLLOUTS, Resource, resource_of
from rlhf_operator.errors import ApiError, Conflict, Invalid, NotFound
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.store import ObjectKey, Store, decode, own_fields
from rlhf_operator.runtime.drift import drops_fields, is_applied
from rlhf_operator.runtime.events import Recorder

PAUSED_REASON = "Paused"

_ADOPTING = frozenset({POLICYROLLOUTS.kind})
"""Kinds whose children are their state: what an orphaning deletion has left is theirs again when they come back."""


class WriteRefused(Exception):
    """A child write that the server refused, in the words the controller gets."""

    def __init__(self, failure: WriteFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Executor:
    """Writes plans. Every object that a write returns goes into its store: the next reconcile sees it."""

    def __init__(self, client: KubeClient, stores: Mapping[Resource, Store], recorder: Recorder) -> None:
        self._client = client
        self._stores = stores
        self._recorder = recorder
        self._resources = {(resource.api_version, resource.kind): resource for resource in stores}
        # Known to be applied: digest of the manifest, and the version it left. Spares the comparison, and the repeated
        # apply where `is_applied` can't prove that nothing would change (quantities that are written otherwise).
        self._applied: dict[tuple[Resource, ObjectKey], tuple[bytes, int]] = {}

    async def execute(self, obj: Manifest, plan: Plan) -> bool:
        """The whole plan; whether its status was written.

        Raises WriteRefused for a child, Conflict for a status that was read too early.
        """
        for manifest in plan.apply:
            await self._apply(obj, manifest)
        for manifest in plan.create:
            await self._create(obj, manifest)
        for delete in plan.delete:
            await self._delete(obj, delete)
        return await self.report(obj, plan)

    async def report(self, obj: Manifest, plan: Plan) -> bool:
        """Status and events alone; whether the status was written."""
        if plan.status is None or plan.status == (obj.get("status") or {}):
            return False
        metadata = obj["metadata"]
        resource = self._resources[obj["apiVersion"], obj["kind"]]
        try:
            written = await self._client.replace_status(
                resource, metadata["namespace"], metadata["name"], metadata["resourceVersion"], plan.status
            )
        except NotFound:
            return False
        self._stores[resource].upsert(written)
        for event in plan.events:
            self._recorder.emit(obj, event)
        return True

    def paused(self, obj: Manifest, target: str | None = None) -> None:
        """Say by an event that nothing is written: to the object itself, or to one of its children."""
        whose = target or "this object"
        message = (
            f"annotation {PAUSED_ANNOTATION}=true on {whose}: the operator writes nothing to it; remove it to go on"
        )
        self._recorder.emit(obj, Event("Warning", PAUSED_REASON, message))

    async def _apply(self, obj: Manifest, manifest: Manifest) -> None:
        resource, key, store = self._place(manifest)
        if store is None:
            raise KeyError(f"{resource} is not watched: it can be created, not applied")
        entry = store.entry(key)
        if entry is None:
            await self._create(obj, manifest)
            return
        digest = hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).digest()
        if self._applied.get((resource, key)) == (digest, entry.version):
            return
        live = decode(entry)
        if self._is_paused(obj, live):
            return
        if not belongs(manifest, live):
            raise self._taken("apply", resource, key)
        own = own_fields(entry)
        if is_applied(manifest, live, own):
            self._applied[(resource, key)] = (digest, entry.version)
            return
        try:
            if drops_fields(manifest, own):
                await self._own_by_apply(resource, key)
            written = await self._client.apply(resource, manifest)
        except ApiError as error:
            raise _refused("apply", resource, key, error) from error
        store.upsert(written)
        self._applied[(resource, key)] = (digest, int(written["metadata"]["resourceVersion"]))

    async def _own_by_apply(self, resource: Resource, key: ObjectKey) -> None:
        """Turn our creation's entry in managedFields into an apply's, or fields that we drop would never go away.

        What client-go's csaupgrade does; the version in it makes it safe.
        """
        live = await self._client.get(resource, key[0] or None, key[1])
        fields = live["metadata"].get("managedFields") or []
        for entry in fields:
            if entry.get("manager") == MANAGED_BY and not entry.get("subresource"):
                entry["operation"] = "Apply"
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "managedFields": fields}}
        await self._client.merge_patch(resource, key[0] or None, key[1], patch)

    async def _create(self, obj: Manifest, manifest: Manifest) -> None:
        resource, key, store = self._place(manifest)
        live: Mapping[str, Any] | None = store.get(key) if store is not None else None
        if live is None:
            try:
                written = await self._client.create(resource, manifest)
                if store is not None:
                    store.upsert(written)
                return
            except Conflict as error:
                if error.reason != "AlreadyExists":
                    raise _refused("create", resource, key, error) from error
            except ApiError as error:
                raise _refused("create", resource, key, error) from error
            try:
                found = await self._client.get(resource, key[0] or None, key[1])
            except ApiError as error:
                raise _refused("create", resource, key, error) from error
            live = found
        if not belongs(manifest, live):
            raise self._taken("create", resource, key)
        if is_orphan(live) and manifest["metadata"].get("ownerReferences"):
            await self._adopt(resource, key, manifest, live)

    async def _adopt(self, resource: Resource, key: ObjectKey, manifest: Manifest, live: Mapping[str, Any]) -> None:
        """Make an object ours that an orphaning deletion has left behind; nothing else of it is touched."""
        version, owners = live["metadata"]["resourceVersion"], manifest["metadata"]["ownerReferences"]
        patch = {"metadata": {"resourceVersion": version, "ownerReferences": owners}}
        try:
            written = await self._client.merge_patch(resource, key[0] or None, key[1], patch)
        except ApiError as error:
            raise _refused("apply", resource, key, error) from error
        store = self._stores.get(resource)
        if store is not None:
            store.upsert(written)

    async def _delete(self, obj: Manifest, delete: Delete) -> None:
        store = self._stores.get(delete.resource)
        key = (delete.namespace, delete.name)
        live = store.get(key) if store else None
        if live is not None and self._is_paused(obj, live):
            return
        try:
            answer = await self._client.delete(
                delete.resource, delete.namespace, delete.name, delete.uid, delete.propagation
            )
        except NotFound:
            answer = {}
        except Conflict as error:
            # The name is another object's by now: ours is gone, which is what was wanted.
            if "uid" not in error.message.lower():
                raise _refused("delete", delete.resource, key, error) from error
            answer = {}
        except ApiError as error:
            raise _refused("delete", delete.resource, key, error) from error
        if store is None:
            return
        if answer.get("kind") == delete.resource.kind and answer["metadata"].get("deletionTimestamp"):
            store.upsert(answer)
        else:
            store.remove(key, delete.uid)

    def _is_paused(self, obj: Manifest, live: Mapping[str, Any]) -> bool:
        if not is_paused(live):
            return False
        self.paused(obj, f"{live['kind']} {live['metadata']['name']}")
        return True

    def _place(self, manifest: Manifest) -> tuple[Resource, ObjectKey, Store | None]:
        """Resource, key, and the store if it is watched: Secrets are not, so that no list of them is asked for."""
        made = (manifest["apiVersion"], manifest["kind"])
        resource = self._resources.get(made) or resource_of(*made)
        metadata = manifest["metadata"]
        if (metadata.get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGED_BY:
            raise ValueError(f"{resource} {metadata['name']} lacks the label {MANAGED_BY_LABEL}: no cache would see it")
        return resource, (metadata.get("namespace") or "", metadata["name"]), self._stores.get(resource)

    @staticmethod
    def _taken(action: WriteAction, resource: Resource, key: ObjectKey) -> WriteRefused:
        message = f"{resource.kind} {key[1]} exists and is not ours; delete or rename it, then this goes on by itself"
        return WriteRefused(_failure(action, resource, key, "NameTaken", message, retriable=True))


def is_paused(obj: Mapping[str, Any]) -> bool:
    """Whether the break-glass annotation is set."""
    return (obj["metadata"].get("annotations") or {}).get(PAUSED_ANNOTATION) == "true"


def is_orphan(live: Mapping[str, Any]) -> bool:
    """Whether an object has no controlling owner."""
    return not any(reference.get("controller") for reference in live["metadata"].get("ownerReferences") or ())


def belongs(manifest: Manifest, live: Mapping[str, Any]) -> bool:
    """Whether a live object of this name is the one we made for this owner.

    By the uid of the controlling owner; objects that outlive their owner (claims, orphans of a rollout) by our labels.
    """
    owner = next((o["uid"] for o in manifest["metadata"].get("ownerReferences") or () if o.get("controller")), None)
    wanted, found = manifest["metadata"]["labels"], live["metadata"].get("labels") or {}
    adopts = wanted.get(OWNER_KIND_LABEL) in _ADOPTING and is_orphan(live)
    if owner is not None and not adopts:
        return any(reference["uid"] == owner for reference in live["metadata"].get("ownerReferences") or ())
    return all(found.get(k) == wanted.get(k) for k in (MANAGED_BY_LABEL, OWNER_KIND_LABEL, OWNER_NAME_LABEL))


def _refused(action: WriteAction, resource: Resource, key: ObjectKey, error: ApiError) -> WriteRefused:
    # What validation refuses stays refused; permission, quota and load may change without any object of ours changing.
    retriable = not isinstance(error, Invalid)
    return WriteRefused(_failure(action, resource, key, error.reason, error.message, retriable=retriable))


def _failure(
    action: WriteAction, resource: Resource, key: ObjectKey, reason: str, message: str, *, retriable: bool
) -> WriteFailure:
    return WriteFailure(
        action=action,
        resource=resource,
        namespace=key[0],
        name=key[1],
        reason=reason,
        message=message,
        retriable=retriable,
    )

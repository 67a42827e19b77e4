"""What is known of one resource: objects as JSON bytes, indexed by owner. Filled by a reflector and by our own writes.

Objects are kept encoded and decoded for each reader: a third of the memory of decoded ones, and no reader can change
what another sees. Of managedFields only our own entry is kept: it tells whether an apply would change anything.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from rlhf_operator.common.intents import FIELD_MANAGER, OWNER_KIND_LABEL, OWNER_NAME_LABEL
from rlhf_operator.common.mentions import MENTIONS, Mention
from rlhf_operator.common.resources import Resource

ObjectKey = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""

_REMEMBERED_DELETIONS = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One object and what is asked of it often enough to be kept decoded."""

    raw: bytes
    version: int
    uid: str
    owners: tuple[str, ...]
    owner_kind: str | None
    owner_name: str | None
    category: str
    seeks: tuple[Resource, ...]
    """Optional resources that this object needs."""
    mentions: tuple[Mention, ...] = ()
    """Objects of ours that this one speaks of, without being theirs."""


class Store:
    """Objects of one resource. Versions only ever go up, whichever of watch, list and own write comes first."""

    def __init__(
        self,
        resource: Resource,
        categorise: Callable[[Mapping[str, Any]], str] | None = None,
        seeks: Callable[[Mapping[str, Any]], tuple[Resource, ...]] | None = None,
        trim: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.resource = resource
        self.categories: Counter[str] = Counter()
        self.seeking: Counter[Resource] = Counter()
        self._categorise = categorise
        self._seeks = seeks
        self._trim = trim
        self._mentions = MENTIONS.get(resource)
        self._entries: dict[ObjectKey, Entry] = {}
        self._by_owner: dict[str, set[ObjectKey]] = {}
        self._by_mention: dict[tuple[str, Mention], set[ObjectKey]] = {}
        self._by_uid: dict[str, ObjectKey] = {}
        self._deleted: set[str] = set()
        self._deleted_order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ObjectKey]:
        """All keys as they are now, in no order."""
        return iter(tuple(self._entries))

    def entry(self, key: ObjectKey) -> Entry | None:
        """The entry as it is kept."""
        return self._entries.get(key)

    def get(self, key: ObjectKey) -> dict[str, Any] | None:
        """A copy of the object, without managedFields."""
        entry = self._entries.get(key)
        return None if entry is None else decode(entry)

    def owned(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        """Copies of all objects with an owner reference to this uid, oldest first."""
        keys = self._by_owner.get(uid, ())
        found = [decode(self._entries[key]) for key in keys if key[0] == namespace]
        return sorted(found, key=lambda o: (o["metadata"].get("creationTimestamp") or "", o["metadata"]["name"]))

    def mentioning(self, namespace: str, mention: Mention) -> tuple[ObjectKey, ...]:
        """Keys of all objects that speak of an object of this namespace, sorted."""
        return tuple(sorted(self._by_mention.get((namespace, mention), ())))

    def by_uid(self, uid: str) -> Entry | None:
        """The entry that has this uid."""
        key = self._by_uid.get(uid)
        return None if key is None else self._entries.get(key)

    def upsert(self, obj: dict[str, Any]) -> Entry | None:
        """Take a version in; None when it is not newer than the known one, or known to be deleted."""
        metadata = obj["metadata"]
        key = (metadata.get("namespace") or "", metadata["name"])
        known = self._entries.get(key)
        # Most of what a watch brings is our own writes: it is told from the version alone.
        if metadata["uid"] in self._deleted or (
            known is not None and known.version >= int(metadata["resourceVersion"])
        ):
            return None
        entry = self._encode(obj)
        if known is not None:
            self._forget(key, known)
        self._entries[key] = entry
        self._by_uid[entry.uid] = key
        self.categories[entry.category] += 1
        self.seeking.update(entry.seeks)
        for owner in entry.owners:
            self._by_owner.setdefault(owner, set()).add(key)
        for mention in entry.mentions:
            self._by_mention.setdefault((key[0], mention), set()).add(key)
        return entry

    def remove(self, key: ObjectKey, uid: str) -> Entry | None:
        """Forget a deleted object for good; returns what was known of it."""
        self._remember_deletion(uid)
        known = self._entries.get(key)
        if known is None or known.uid != uid:
            return None
        del self._entries[key]
        self._forget(key, known)
        return known

    def missing_from(self, listed: set[ObjectKey], version: int, namespace: str | None) -> list[ObjectKey]:
        """Keys that a complete list at this version lacks. What we wrote after the list was made is not missing."""
        return [
            key
            for key, entry in self._entries.items()
            if key not in listed and entry.version <= version and (namespace is None or key[0] == namespace)
        ]

    def _encode(self, obj: dict[str, Any]) -> Entry:
        metadata = obj["metadata"]
        # List items lack both; readers get whole objects.
        obj.setdefault("apiVersion", self.resource.api_version)
        obj.setdefault("kind", self.resource.kind)
        fields = metadata.pop("managedFields", None)
        if fields:
            ours = [_slim(f) for f in fields if f.get("manager") == FIELD_MANAGER and not f.get("subresource")]
            if ours:
                metadata["managedFields"] = ours
        labels = metadata.get("labels") or {}
        if self._trim:
            self._trim(obj)
        return Entry(
            # orjson keeps its buffer as large as it grew, up to fifteen times the text: a copy is as large as the text.
            raw=bytes(memoryview(orjson.dumps(obj))),
            version=int(metadata["resourceVersion"]),
            uid=metadata["uid"],
            owners=tuple(reference["uid"] for reference in metadata.get("ownerReferences") or ()),
            owner_kind=labels.get(OWNER_KIND_LABEL),
            owner_name=labels.get(OWNER_NAME_LABEL),
            category=self._categorise(obj) if self._categorise else "",
            seeks=self._seeks(obj) if self._seeks else (),
            mentions=tuple(sorted(set(self._mentions(obj)))) if self._mentions else (),
        )

    def _forget(self, key: ObjectKey, entry: Entry) -> None:
        self.categories[entry.category] -= 1
        self.seeking.subtract(entry.seeks)
        self._by_uid.pop(entry.uid, None)
        for owner in entry.owners:
            siblings = self._by_owner.get(owner)
            if siblings is not None:
                siblings.discard(key)
                if not siblings:
                    del self._by_owner[owner]
        for mention in entry.mentions:
            others = self._by_mention.get((key[0], mention))
            if others is not None:
                others.discard(key)
                if not others:
                    del self._by_mention[key[0], mention]

    def _remember_deletion(self, uid: str) -> None:
        if uid in self._deleted:
            return
        self._deleted.add(uid)
        self._deleted_order.append(uid)
        if len(self._deleted_order) > _REMEMBERED_DELETIONS:
            self._deleted.discard(self._deleted_order.popleft())


def decode(entry: Entry) -> dict[str, Any]:
    """A copy of the object, without managedFields."""
    obj: dict[str, Any] = orjson.loads(entry.raw)
    obj["metadata"].pop("managedFields", None)
    return obj


@dataclass(frozen=True, slots=True)
class OwnFields:
    """One entry of ours in managedFields: `fieldsV1`, and whether an apply made it or the creation did.

    A creation's are only those that were sent: the server puts its defaults down to the creator too.
    """

    fields: Mapping[str, Any]
    applied: bool


# Subtrees that the server adds no defaults to.
_UNDEFAULTED = ("f:data", "f:binaryData", "f:metadata")


def _slim(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """An entry of managedFields with what is asked of it; a Job's creation alone has 4 KB of fields."""
    operation, fields = entry.get("operation"), entry.get("fieldsV1") or {}
    if operation != "Apply":
        fields = {name: fields[name] for name in _UNDEFAULTED if name in fields}
    return {"operation": operation, "fieldsV1": fields}


def own_fields(entry: Entry) -> list[OwnFields]:
    """The fields that are ours; empty for an object that we never wrote."""
    entries = orjson.loads(entry.raw)["metadata"].get("managedFields") or ()
    return [OwnFields(f.get("fieldsV1") or {}, f.get("operation") == "Apply") for f in entries]

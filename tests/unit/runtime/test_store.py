"""Versions only go up, whoever brings them: watch, list or our own write."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.common.intents import FIELD_MANAGER, OWNER_KIND_LABEL, OWNER_NAME_LABEL
from rlhf_operator.common.resources import CONFIGMAPS
from rlhf_operator.kube.store import Store, own_fields


def obj(version: int, name: str = "a", uid: str = "u1", **metadata: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), **metadata}
    return {"metadata": meta, "data": {"version": str(version)}}


def version_of(store: Store, name: str = "a") -> str | None:
    found = store.get(("n", name))
    return None if found is None else found["data"]["version"]


def test_an_older_version_changes_nothing() -> None:
    store = Store(CONFIGMAPS)
    assert store.upsert(obj(5)) is not None
    assert store.upsert(obj(4)) is None
    assert store.upsert(obj(5)) is None, "our own write comes back by the watch: nobody is woken"
    assert version_of(store) == "5"


def test_an_answer_that_arrives_after_the_deletion_brings_nothing_back() -> None:
    store = Store(CONFIGMAPS)
    store.upsert(obj(5))
    assert store.remove(("n", "a"), "u1") is not None
    assert store.upsert(obj(6)) is None
    assert store.upsert(obj(7, uid="u2")) is not None, "another object of the same name is another object"


def test_the_deletion_of_a_former_object_leaves_the_new_one() -> None:
    store = Store(CONFIGMAPS)
    store.upsert(obj(7, uid="u2"))
    assert store.remove(("n", "a"), "u1") is None
    assert version_of(store) == "7"


def test_a_list_takes_away_what_it_lacks_but_not_what_we_wrote_after_it() -> None:
    store = Store(CONFIGMAPS)
    store.upsert(obj(5, "old", "u1"))
    store.upsert(obj(12, "written", "u2"))
    assert store.missing_from(set(), 10, None) == [("n", "old")]
    assert store.missing_from({("n", "old")}, 10, None) == []
    assert store.missing_from(set(), 10, "other-namespace") == []


def test_owners_are_indexed_and_forgotten() -> None:
    store = Store(CONFIGMAPS)
    reference = [{"uid": "owner"}]
    store.upsert(obj(1, "b", "u1", ownerReferences=reference, creationTimestamp="2026-01-02T00:00:00Z"))
    store.upsert(obj(2, "a", "u2", ownerReferences=reference, creationTimestamp="2026-01-01T00:00:00Z"))
    assert [o["metadata"]["name"] for o in store.owned("n", "owner")] == ["a", "b"]
    store.upsert(obj(3, "a", "u2", ownerReferences=[]))
    store.remove(("n", "b"), "u1")
    assert store.owned("n", "owner") == []
    assert store.by_uid("u1") is None


def test_readers_get_copies_without_managed_fields() -> None:
    store = Store(CONFIGMAPS)
    entry = store.upsert(
        obj(
            1,
            labels={OWNER_KIND_LABEL: "RLHFJob", OWNER_NAME_LABEL: "x"},
            managedFields=[
                {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {}}},
                {
                    "manager": FIELD_MANAGER,
                    "operation": "Update",
                    "fieldsV1": {"f:data": {"f:version": {}}, "f:spec": {}},
                },
                {
                    "manager": FIELD_MANAGER,
                    "operation": "Update",
                    "subresource": "status",
                    "fieldsV1": {"f:status": {}},
                },
            ],
        )
    )
    assert entry is not None
    first, second = store.get(("n", "a")), store.get(("n", "a"))
    assert first is not None
    assert second is not None
    first["data"]["version"] = "changed"
    assert second["data"]["version"] == "1"
    assert "managedFields" not in second["metadata"]
    assert (second["kind"], second["apiVersion"]) == ("ConfigMap", "v1"), "items of lists lack both"
    own = own_fields(entry)
    assert [(fields.fields, fields.applied) for fields in own] == [({"f:data": {"f:version": {}}}, False)]
    assert (entry.owner_kind, entry.owner_name) == ("RLHFJob", "x")


def test_categories_are_counted_as_objects_change() -> None:
    store = Store(CONFIGMAPS, lambda o: "even" if int(o["data"]["version"]) % 2 == 0 else "odd")
    store.upsert(obj(1))
    store.upsert(obj(2))
    store.upsert(obj(3, "b", "u2"))
    assert {k: v for k, v in store.categories.items() if v} == {"even": 1, "odd": 1}
    store.remove(("n", "a"), "u1")
    assert store.categories["even"] == 0


@given(st.permutations(range(1, 8)))
def test_whatever_the_order_the_newest_version_stays(order: list[int]) -> None:
    store = Store(CONFIGMAPS)
    for version in order:
        store.upsert(obj(version))
    assert version_of(store) == "7"

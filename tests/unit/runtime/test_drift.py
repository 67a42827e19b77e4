"""What is applied already, by the notation of managedFields."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.kube.store import OwnFields
from rlhf_operator.runtime.drift import drops_fields, holds, is_applied, wants

SERVICE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}, "ownerReferences": [{"uid": "u", "name": "x"}]},
    "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
}
LIVE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1", "theirs": "2"}, "ownerReferences": [{"uid": "u", "name": "x"}], "uid": "s"},
    "spec": {
        "clusterIP": "None",
        "type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}],
    },
}
FIELDS: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:a": {}}, "f:ownerReferences": {'k:{"uid":"u"}': {}}},
    "f:spec": {
        "f:clusterIP": {},
        "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:port": {}}},
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def test_defaults_and_others_fields_are_no_drift() -> None:
    assert is_applied(SERVICE, LIVE, [OwnFields(FIELDS, applied=True)])


def test_what_we_never_wrote_is_not_taken_for_ours() -> None:
    assert not is_applied(SERVICE, LIVE, [])


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"a": "2"}}},
        {"metadata": {"labels": {"b": "1"}}},
        {"spec": {"ports": [{"name": "http", "port": 81}]}},
        {"spec": {"ports": []}},
        {"spec": {"clusterIP": None}},
    ],
)
def test_another_value_is_drift(change: dict[str, Any]) -> None:
    assert not is_applied({**SERVICE, **change}, LIVE, [OwnFields(FIELDS, applied=True)])


def test_a_field_we_set_and_no_longer_want_is_drift() -> None:
    extra = {**FIELDS, "f:metadata": {**FIELDS["f:metadata"], "f:annotations": {"f:old": {}}}}
    assert not is_applied(SERVICE, LIVE, [OwnFields(extra, applied=True)])
    assert drops_fields(SERVICE, [OwnFields(extra, applied=False)])
    assert not drops_fields(SERVICE, [OwnFields(extra, applied=True)]), "an apply takes its own fields away by itself"


def test_a_list_item_we_set_and_no_longer_want_is_drift() -> None:
    fields: dict[str, Any] = {"f:spec": {"f:ports": {'k:{"port":81,"protocol":"TCP"}': {".": {}}}}}
    assert not wants(SERVICE, fields)


def test_sets_and_positions_are_understood() -> None:
    wanted = {"spec": {"finalizers": ["a", "b"], "args": ["x", "y"]}}
    assert wants(wanted, {"f:spec": {"f:finalizers": {'v:"a"': {}}, "f:args": {"i:1": {}}}})
    assert not wants(wanted, {"f:spec": {"f:finalizers": {'v:"c"': {}}}})
    assert not wants(wanted, {"f:spec": {"f:args": {"i:2": {}}}})


def test_true_is_not_one() -> None:
    assert not holds({"a": 1}, {"a": True})
    assert holds({"a": True}, {"a": True})


@given(json_values)
def test_everything_holds_itself(value: Any) -> None:
    assert holds(value, value)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4), st.dictionaries(st.text(max_size=3), json_values))
def test_a_map_holds_every_part_of_itself(part: dict[str, Any], rest: dict[str, Any]) -> None:
    assert holds({**rest, **part}, part)

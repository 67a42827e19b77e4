"""One operator against a real API server: what it writes, what it doesn't, and what it does after it was away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opkit.api import Api
from opkit.process import OperatorProcess, wait_for
from opkit.widgets import WIDGETS, widget
from rlhf_operator.common.resources import CONFIGMAPS, EVENTS, SERVICES

StartOperator = Callable[..., OperatorProcess]


def ready(value: str = "one") -> Callable[[dict[str, Any]], bool]:
    return lambda obj: obj.get("status", {}).get("value") == value


def quiet(process: OperatorProcess) -> bool:
    """Nothing waits, nothing is in work."""
    return process.metric("rlhf_operator_queue_depth") == 0 and process.metric("rlhf_operator_queue_working") == 0


def leads(process: OperatorProcess) -> None:
    process.wait_ready()
    wait_for("the Lease", process.leads)


def test_a_new_object_gets_its_children_then_one_status_then_one_event(
    admin: Api, namespace: str, start: StartOperator
) -> None:
    operator = start()
    leads(operator)
    admin.create(WIDGETS, widget(namespace, count=2, service=True))
    obj = admin.eventually(WIDGETS, namespace, "w", ready())
    assert obj["status"] == {"value": "one", "phase": "Ready", "configMaps": 2}
    assert admin.get(SERVICES, namespace, "w") is not None
    events = wait_for("the event", lambda: admin.list(EVENTS, namespace))
    assert [(e["reason"], e["note"], e["regarding"]["uid"]) for e in events] == [
        ("Made", "made for one", obj["metadata"]["uid"])
    ]
    wait_for("quiet", lambda: quiet(operator))
    # 2 ConfigMaps, the Service, the ConfigMap made once, the event; and the status.
    calls = operator.calls()
    assert (calls["create"], calls["patch"]) == (5, 1), calls


def test_it_leaves_no_finalizer_and_no_annotation_on_anything(admin: Api, namespace: str, start: StartOperator) -> None:
    leads(start())
    admin.create(WIDGETS, widget(namespace, service=True))
    obj = admin.eventually(WIDGETS, namespace, "w", ready())
    children = [admin.get(CONFIGMAPS, namespace, "w-0"), admin.get(SERVICES, namespace, "w")]
    for each in (obj, *children):
        assert each is not None
        assert "finalizers" not in each["metadata"]
        assert "annotations" not in each["metadata"]


def test_a_restart_over_converged_objects_writes_nothing(admin: Api, namespace: str, start: StartOperator) -> None:
    first = start("first")
    leads(first)
    for number in range(20):
        admin.create(WIDGETS, widget(namespace, f"w{number}", count=2, service=True))
    for number in range(20):
        admin.eventually(WIDGETS, namespace, f"w{number}", ready())
    assert first.terminate() == 0

    second = start("second")
    leads(second)
    wait_for("20 reconciles", lambda: second.metric("rlhf_operator_reconcile_seconds_count", outcome="ok") >= 20)
    wait_for("quiet", lambda: quiet(second))
    assert second.writes() == 0, second.calls()


def test_what_waits_for_the_status_to_be_on_record_is_done_right_after_it(
    admin: Api, namespace: str, start: StartOperator
) -> None:
    """Nothing else changes then: only the operator itself can bring about the second pass."""
    leads(start())
    admin.create(WIDGETS, widget(namespace, count=0, later=True))
    admin.eventually(CONFIGMAPS, namespace, "w-later", bool)


def test_drift_is_repaired_and_a_surplus_child_is_deleted(admin: Api, namespace: str, start: StartOperator) -> None:
    leads(start())
    admin.create(WIDGETS, widget(namespace, count=2))
    admin.eventually(WIDGETS, namespace, "w", ready())
    admin.patch(CONFIGMAPS, namespace, "w-0", {"data": {"value": "tampered"}})
    admin.eventually(CONFIGMAPS, namespace, "w-0", lambda c: c["data"]["value"] == "one")
    admin.delete(CONFIGMAPS, namespace, "w-1")
    admin.eventually(CONFIGMAPS, namespace, "w-1", lambda c: c["data"]["value"] == "one")
    admin.patch(WIDGETS, namespace, "w", {"spec": {"count": 1, "value": "two"}})
    admin.eventually(WIDGETS, namespace, "w", ready("two"))
    wait_for("w-1 to go", lambda: admin.get(CONFIGMAPS, namespace, "w-1") is None)
    once = admin.get(CONFIGMAPS, namespace, "w-once")
    assert once is not None
    assert once["data"] == {"first": "one"}, "what is created once is never applied again"


def test_a_field_that_is_no_longer_wanted_goes_away(admin: Api, namespace: str, start: StartOperator) -> None:
    """Created by POST, applied later: the creation's fields must be ours to remove."""
    operator = start("first")
    leads(operator)
    admin.create(WIDGETS, widget(namespace, labels={"extra": "yes"}))
    made = admin.eventually(CONFIGMAPS, namespace, "w-0", bool)
    assert made["metadata"]["labels"]["extra"] == "yes"
    admin.patch(WIDGETS, namespace, "w", {"spec": {"labels": None, "value": "two"}})
    changed = admin.eventually(CONFIGMAPS, namespace, "w-0", lambda c: c["data"]["value"] == "two")
    assert "extra" not in changed["metadata"]["labels"]


def test_changes_and_deletions_while_it_is_down_are_noticed(admin: Api, namespace: str, start: StartOperator) -> None:
    first = start("first")
    leads(first)
    for name in ("kept", "deleted", "changed"):
        admin.create(WIDGETS, widget(namespace, name))
        admin.eventually(WIDGETS, namespace, name, ready())
    first.kill()
    admin.delete(WIDGETS, namespace, "deleted")
    assert admin.get(WIDGETS, namespace, "deleted") is None, "nothing of ours may hold a deletion up"
    admin.delete(CONFIGMAPS, namespace, "kept-0")
    admin.patch(WIDGETS, namespace, "changed", {"spec": {"value": "two"}})

    second = start("second")
    admin.eventually(CONFIGMAPS, namespace, "kept-0", bool)
    admin.eventually(WIDGETS, namespace, "changed", ready("two"))
    assert second.metric("rlhf_operator_objects", kind="Widget") == 2


def test_a_name_that_is_taken_is_said_and_never_taken_over(admin: Api, namespace: str, start: StartOperator) -> None:
    leads(start(BACKOFF_MAX_SECONDS="1"))
    theirs = admin.create(CONFIGMAPS, {"metadata": {"name": "w-0", "namespace": namespace}, "data": {"theirs": "1"}})
    admin.create(WIDGETS, widget(namespace))
    obj = admin.eventually(WIDGETS, namespace, "w", lambda o: o.get("status", {}).get("phase") == "Failed")
    assert obj["status"]["message"].startswith("NameTaken: ConfigMap w-0 exists and is not ours")
    now = admin.get(CONFIGMAPS, namespace, "w-0")
    assert now is not None
    assert now["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]
    admin.delete(CONFIGMAPS, namespace, "w-0")
    admin.eventually(WIDGETS, namespace, "w", ready())


def test_a_delete_never_hits_a_newer_object_of_the_same_name(admin: Api, namespace: str, start: StartOperator) -> None:
    """The uid is a precondition: a Widget that names a uid long gone deletes nothing."""
    leads(start())
    theirs = admin.create(CONFIGMAPS, {"metadata": {"name": "precious", "namespace": namespace}})
    other = "00000000-0000-0000-0000-000000000000"
    admin.create(WIDGETS, widget(namespace, deleteUid={"name": "precious", "uid": other}))
    admin.eventually(WIDGETS, namespace, "w", ready())
    assert admin.get(CONFIGMAPS, namespace, "precious") is not None
    right = {"name": "precious", "uid": theirs["metadata"]["uid"]}
    admin.patch(WIDGETS, namespace, "w", {"spec": {"value": "two", "deleteUid": right}})
    admin.eventually(WIDGETS, namespace, "w", ready("two"))
    assert admin.get(CONFIGMAPS, namespace, "precious") is None


def test_a_wake_up_reconciles_without_any_change(admin: Api, namespace: str, start: StartOperator) -> None:
    operator = start()
    leads(operator)
    admin.create(WIDGETS, widget(namespace, wakeSeconds=1))
    admin.eventually(WIDGETS, namespace, "w", ready())
    reconciles = "rlhf_operator_reconcile_seconds_count"
    # 2 ConfigMaps, the status, and last the event.
    wait_for("the event", lambda: operator.writes() >= 4)
    before, writes = operator.metric(reconciles, outcome="ok"), operator.writes()
    wait_for("three wake-ups", lambda: operator.metric(reconciles, outcome="ok") >= before + 3)
    assert operator.writes() == writes


def test_a_paused_object_and_a_paused_child_are_not_written_to(
    admin: Api, namespace: str, start: StartOperator
) -> None:
    operator = start()
    leads(operator)
    paused = {"metadata": {"annotations": {"rlhf.dev/paused": "true"}}}
    admin.create(WIDGETS, widget(namespace, count=2))
    admin.eventually(WIDGETS, namespace, "w", ready())

    admin.patch(CONFIGMAPS, namespace, "w-0", paused)
    admin.patch(WIDGETS, namespace, "w", {"spec": {"value": "two"}})
    admin.eventually(CONFIGMAPS, namespace, "w-1", lambda c: c["data"]["value"] == "two")
    admin.eventually(WIDGETS, namespace, "w", ready("two"))
    child = admin.get(CONFIGMAPS, namespace, "w-0")
    assert child is not None
    assert child["data"]["value"] == "one"
    said = wait_for("the event", lambda: [e for e in admin.list(EVENTS, namespace) if e["reason"] == "Paused"])
    assert "ConfigMap w-0" in said[0]["note"]

    admin.patch(WIDGETS, namespace, "w", paused)
    wait_for("the event", lambda: [e for e in admin.list(EVENTS, namespace) if "on this object" in e["note"]])
    before = admin.patch(WIDGETS, namespace, "w", {"spec": {"value": "three"}})
    admin.delete(CONFIGMAPS, namespace, "w-1")
    wait_for("a look at it", lambda: operator.metric("rlhf_operator_reconcile_seconds_count", outcome="paused") >= 2)
    wait_for("quiet", lambda: quiet(operator))
    after = admin.get(WIDGETS, namespace, "w")
    assert after is not None
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert admin.get(CONFIGMAPS, namespace, "w-1") is None

    admin.patch(WIDGETS, namespace, "w", {"metadata": {"annotations": None}})
    admin.patch(CONFIGMAPS, namespace, "w-0", {"metadata": {"annotations": None}})
    admin.eventually(WIDGETS, namespace, "w", ready("three"))
    admin.eventually(CONFIGMAPS, namespace, "w-0", lambda c: c["data"]["value"] == "three")


def test_an_object_under_deletion_is_left_alone(admin: Api, namespace: str, start: StartOperator) -> None:
    operator = start()
    leads(operator)
    held = widget(namespace)
    held["metadata"]["finalizers"] = ["test.rlhf.dev/hold"]
    admin.create(WIDGETS, held)
    admin.eventually(WIDGETS, namespace, "w", ready())
    admin.delete(WIDGETS, namespace, "w")
    admin.patch(WIDGETS, namespace, "w", {"spec": {"value": "two"}})
    wait_for("a look at it", lambda: operator.metric("rlhf_operator_reconcile_seconds_count", outcome="deleting") >= 1)
    wait_for("quiet", lambda: quiet(operator))
    left = admin.get(CONFIGMAPS, namespace, "w-0")
    assert left is None or left["data"]["value"] == "one"
    admin.patch(WIDGETS, namespace, "w", {"metadata": {"finalizers": None}})

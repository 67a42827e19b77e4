"""Settings, versions, logs and the names of events."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from rlhf_operator.common.intents import Event
from rlhf_operator.errors import ClusterTooOld, OperatorError, SettingsInvalid, api_error
from rlhf_operator.runtime.events import event_name
from rlhf_operator.runtime.logs import JSONFormatter, current_object
from rlhf_operator.runtime.version import check_version
from rlhf_operator.settings import load_settings

OBJ: dict[str, Any] = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "namespace": "n", "uid": "u"}}


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OPERATOR_NAMESPACES", "a, b,")
    monkeypatch.setenv("RLHF_OPERATOR_TRAINER_IMAGE", "registry/trainer@sha256:1")
    monkeypatch.setenv("POD_NAME", "operator-1")
    settings = load_settings()
    assert settings.namespaces == ("a", "b")
    assert settings.defaults().trainer_image == "registry/trainer@sha256:1"
    assert settings.identity.startswith("operator-1_")
    assert settings.predecessor == "operator-1_"


def test_without_a_pod_no_former_holder_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAME", raising=False)
    assert load_settings().predecessor is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "0"),
        ("LEASE_RENEW_DEADLINE_SECONDS", "14"),
        ("WATCH_UNHEALTHY_SECONDS", "50"),
        ("LOG_LEVEL", "loud"),
        ("HUB_ACCESS", "perhaps"),
    ],
)
def test_a_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"RLHF_OPERATOR_{name}", value)
    with pytest.raises(SettingsInvalid):
        load_settings()


def test_the_floor_of_the_servers_version() -> None:
    assert check_version({"gitVersion": "v1.32.0"}) == "v1.32.0"
    assert check_version({"gitVersion": "v1.34.2-gke.100"}) == "v1.34.2-gke.100"
    for old in ("v1.31.9", "unknown", None):
        with pytest.raises(ClusterTooOld, match=r"1\.32"):
            check_version({"gitVersion": old})


def test_a_log_line_is_json_and_names_the_object() -> None:
    token = current_object.set({"kind": "RLHFJob", "namespace": "n", "name": "a"})
    try:
        record = logging.LogRecord("l", logging.INFO, "f", 1, "hello %s", ("you",), None)
        record.attempt = 3
        line = json.loads(JSONFormatter().format(record))
    finally:
        current_object.reset(token)
    assert (line["message"], line["kind"], line["name"], line["attempt"]) == ("hello you", "RLHFJob", "a", 3)


def test_what_is_said_again_has_the_same_name() -> None:
    first = event_name(OBJ, Event("Normal", "Started", "attempt 1"))
    assert first == event_name(OBJ, Event("Normal", "Started", "attempt 1"))
    assert first != event_name(OBJ, Event("Normal", "Started", "attempt 2"))
    assert first != event_name(
        {**OBJ, "metadata": {**OBJ["metadata"], "uid": "v"}}, Event("Normal", "Started", "attempt 1")
    )


def test_every_end_of_the_process_has_a_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in OperatorError.__subclasses__() if "exit_code" in vars(kind)]
    assert len(codes) == len(set(codes))
    assert 0 not in codes
    assert 1 not in codes


def test_conflicts_may_be_tried_again_and_refusals_may_not() -> None:
    assert api_error(409, "Conflict", "").retriable
    assert not api_error(422, "Invalid", "").retriable

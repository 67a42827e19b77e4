"""The HTTP contract, against a judge behind a real socket."""

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from judgekit.local import Running, settings
from judgekit.versions import Version
from rlhf_server.intake import Bodies
from rlhf_server.judge.errors import QueueFull

SECRET = "the-secret-text"


def item(response: str, prompt: str = "p") -> dict[str, Any]:
    return {"prompt": prompt, "response": response}


def post(judge: Running, content: Any, **options: Any) -> httpx.Response:
    with judge.client() as client:
        if isinstance(content, bytes):
            return client.post("/v1/score", content=content, **options)
        return client.post("/v1/score", json=content, **options)


def refused(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"reason", "message"}
    return response.status_code, error["reason"], error["message"]


def test_scores_come_by_dimension_with_their_mean_in_the_order_asked(judge: Running, version: Version) -> None:
    answer = post(judge, {"items": [item("thanks please"), item("a b c d e"), item("please")]})
    assert answer.status_code == 200
    assert answer.json() == {
        "version": version.digest,
        "scores": [
            {"dimensions": {"brief": 1.0, "polite": 1.0}, "total": 1.0},
            {"dimensions": {"brief": 0.0, "polite": 0.0}, "total": 0.0},
            {"dimensions": {"brief": 1.0, "polite": 0.75}, "total": 0.875},
        ],
    }


def test_the_version_asked_for_is_the_version_that_answers(judge: Running, version: Version) -> None:
    assert post(judge, {"version": version.digest, "items": [item("x")]}).json()["version"] == version.digest
    other = "sha256:" + "7" * 64
    status, reason, message = refused(post(judge, {"version": other, "items": [item("x")]}))
    assert (status, reason) == (409, "VersionNotHeld")
    assert other in message
    assert version.digest in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "1 errors"),
        (b"{", "1 errors"),
        (b"\xff\xfe", "1 errors"),
        (b"[" * 1000, "1 errors"),
        ({}, "items: Field required"),
        ({"items": []}, "items: "),
        ({"items": [{"prompt": SECRET}]}, "items.0.response: Field required"),
        ({"items": [{"prompt": SECRET, "response": True}]}, "items.0.response: "),
        ({"items": [{"prompt": SECRET, "response": None}]}, "items.0.response: "),
        ({"items": [item(SECRET)], "temperature": SECRET}, "temperature: Extra inputs"),
        ({"version": SECRET, "items": [item("x")]}, "version: "),
        ({"items": [item("x")] * 5}, "5 items, at most 4"),
        (b'{"items":[{"prompt":"\\ud800","response":"x"}]}', "errors: "),
    ],
)
def test_what_is_not_the_schema_is_named_without_the_text(judge: Running, content: Any, says: str) -> None:
    status, reason, message = refused(post(judge, content))
    assert (status, reason) == (422, "RequestInvalid")
    assert says in message
    assert SECRET not in message


def test_a_text_over_the_limit_is_named_by_its_place(judge: Running) -> None:
    fits, exceeds = "é" * 32, "é" * 32 + "x"
    assert post(judge, {"items": [item(fits)]}).status_code == 200
    status, reason, message = refused(post(judge, {"items": [item("x"), item(exceeds)]}))
    assert (status, reason) == (413, "BodyTooLarge")
    assert message == "items.1.response is larger than 64 bytes"


def test_a_body_over_the_limit_is_refused_before_it_is_read(judge: Running) -> None:
    host, port = judge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000000\r\n\r\n{")
        assert peer.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_a_length_is_counted_while_it_comes(judge: Running) -> None:
    def endless() -> Any:
        for _ in range(1000):
            yield b" " * 1024

    sent: list[int] = []

    def counted() -> Any:
        for chunk in endless():
            sent.append(len(chunk))
            yield chunk

    with judge.client() as client:
        try:
            status, reason, _ = refused(client.post("/v1/score", content=counted()))
        except httpx.WriteError:
            return  # the connection was closed while the body was still coming
    assert (status, reason) == (413, "BodyTooLarge")


def test_unknown_paths_and_methods_answer_in_the_same_form(judge: Running) -> None:
    with judge.client() as client:
        assert refused(client.get("/v2/score"))[:2] == (404, "NotFound")
        assert refused(client.get("/v1/score"))[:2] == (405, "MethodNotAllowed")


def test_what_is_held_can_be_asked(judge: Running, version: Version) -> None:
    with judge.client() as client:
        assert client.get("/v1/version").json() == {
            "version": version.digest,
            "kind": "Graders",
            "dimensions": ["brief", "polite"],
            "limits": {"items": 4, "textBytes": 64, "bodyBytes": 1024},
        }
        assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}


def test_metrics_count_requests_and_texts_and_hold_none(judge: Running) -> None:
    with judge.client() as client:
        before = client.get("/metrics").text
        post(judge, {"items": [item(SECRET), item("y")]})
        post(judge, {"items": []})
        after = client.get("/metrics").text
    assert figure(after, 'rlhf_judge_requests_total{code="200"}') == (
        figure(before, 'rlhf_judge_requests_total{code="200"}') + 1
    )
    assert figure(after, 'rlhf_judge_texts_total{outcome="scored"}') == (
        figure(before, 'rlhf_judge_texts_total{outcome="scored"}') + 2
    )
    assert figure(after, 'rlhf_judge_requests_total{code="422"}') >= 1
    assert figure(after, "rlhf_judge_queue_depth") == 0
    assert figure(after, "rlhf_judge_queue_limit") == 8
    assert figure(after, "rlhf_judge_ready") == 1
    assert SECRET not in after
    assert not {"namespace=", "job=", "pod="} & set(after.replace("{", " ").replace(",", " ").split())


def figure(exposed: str, name: str) -> float:
    return next((float(line.rsplit(" ", 1)[1]) for line in exposed.splitlines() if line.startswith(name + " ")), 0.0)


def test_the_openapi_document(judge: Running, golden: Callable[[str, str], None]) -> None:
    with judge.client() as client:
        document = client.get("/openapi.json").json()
    golden("openapi.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def test_bodies_of_all_requests_are_bounded_together() -> None:
    bodies = Bodies(100)
    with bodies.holding() as take:
        take(60)
        with bodies.holding() as other:
            other(40)
            with pytest.raises(QueueFull) as refused:
                other(1)
        assert refused.value.retry_after_seconds == 1
        take(40)
    with bodies.holding() as take:
        take(100)


@pytest.mark.parametrize(
    "changes", [{"queue_depth": 3, "max_items": 4}, {"max_held_bytes": 2000, "max_body_bytes": 2001}]
)
def test_settings_under_which_a_full_request_never_fits_are_refused(version: Version, changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="must not be smaller"):
        settings(version, **changes)

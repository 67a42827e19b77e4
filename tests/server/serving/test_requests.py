"""What reaches the server behind: ids, bodies, the system prompt."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.signals import SYSTEM_PROMPT_FILE, RequestOutcome
from rlhf_server.live.asgi import Receive, Scope, Send, answer
from rlhf_server.live.bodies import with_system_prompt
from rlhf_server.live.exchange import Kind, digest, share
from rlhf_server.live.tokens import check_token
from servekit.local import CHAT, FEEDBACK_KEY, REVISION, Serving, text

PROMPT = "Be kind."


def test_the_gateways_id_is_kept_and_returned(pod: Serving) -> None:
    answer = pod.ask(headers={"x-request-id": "abc-1"})
    assert answer.headers.get_list("x-request-id") == ["abc-1"]
    assert pod.behind.headers[0]["x-request-id"] == "abc-1"
    pod.until(lambda: bool(pod.recorder.exchanges))
    assert pod.recorder.exchanges[0].request_id == "abc-1"


def test_an_id_that_may_not_stand_in_a_log_is_replaced(pod: Serving) -> None:
    for given_id in (b"", b"a b", b"x" * 129, b"a\tb", b"<script>", b"\xe9"):
        headers: dict[Any, Any] = {"x-request-id": given_id} if given_id else {}
        answer = pod.ask(headers=headers)
        assert answer.status_code == 200
        made = answer.headers["x-request-id"]
        assert made.encode() != given_id
        assert len(made) == 32
        assert pod.behind.headers[-1]["x-request-id"] == made


def test_a_live_answer_carries_a_token_for_feedback_and_a_copy_none(pod: Serving) -> None:
    answer = pod.ask(headers={"x-request-id": "abc-1"})
    claims = check_token([FEEDBACK_KEY], answer.headers["x-rlhf-feedback-token"], now=0)
    assert (claims.request_id, claims.revision) == ("abc-1", REVISION)
    assert "x-rlhf-feedback-token" not in pod.ask(url=pod.shadow).headers
    assert "x-rlhf-feedback-token" not in pod.ask(do={"status": 500}).headers


def test_a_body_that_is_too_large_is_refused_declared_or_not(serve: Callable[..., Serving]) -> None:
    pod = serve(max_body_bytes=2048)
    declared = pod.ask(messages=[{"role": "user", "content": "x" * 4096}])
    assert declared.status_code == 413
    assert "2048" in declared.json()["error"]["message"]
    chunked = pod.client.post(f"{pod.live}{CHAT}", content=iter([b"x" * 1024] * 64))
    assert chunked.status_code == 413
    assert pod.behind.received == []
    pod.until(lambda: pod.count(RequestOutcome.CLIENT_ERROR) == 2)
    assert pod.ask().status_code == 200


NO_REQUESTS = [
    b"",
    b"{",
    b"[1]",
    b'"x"',
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"messages": 5}',
    b'{"messages": [[1]]}',
]


def test_what_is_no_request_goes_to_the_server_as_it_came(pod: Serving) -> None:
    seen: list[bytes] = []

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append((await receive())["body"])
            await answer(send, 400, b"{}", "application/json")

    pod.signals._app = echo
    for body in NO_REQUESTS:
        assert pod.client.post(f"{pod.live}{CHAT}", content=body).status_code == 400
    assert seen == NO_REQUESTS
    pod.until(lambda: pod.count(RequestOutcome.CLIENT_ERROR) == len(NO_REQUESTS))


def test_a_client_that_leaves_in_the_middle_of_its_request_is_counted(pod: Serving) -> None:
    host, port = httpx.URL(pod.live).host, httpx.URL(pod.live).port
    with socket.create_connection((host, port)) as client:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf".encode())
    pod.until(lambda: pod.count(RequestOutcome.CANCELLED) == 1)
    assert pod.behind.received == []


@pytest.fixture
def prompted(tmp_path: Path, serve: Callable[..., Serving]) -> Serving:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / SYSTEM_PROMPT_FILE).write_text(PROMPT + "\n")
    return serve({"trajectorySampleRate": 1.0})


def test_the_system_prompt_comes_first_and_the_record_has_what_the_client_sent(prompted: Serving) -> None:
    answer = prompted.ask(messages=[{"role": "user", "content": "Héllo 😀"}])
    assert answer.json()["choices"][0]["message"]["content"] == text(3)
    sent = prompted.behind.received[0]["messages"]
    assert sent == [{"role": "system", "content": PROMPT}, {"role": "user", "content": "Héllo 😀"}]
    prompted.until(lambda: bool(prompted.recorder.exchanges))
    kept = prompted.recorder.exchanges[0]
    assert kept.request["messages"] == sent[1:]
    assert kept.prompt_digest == digest({"messages": sent[1:]})


@pytest.mark.parametrize(
    ("messages", "first"),
    [
        ([], {"role": "system", "content": PROMPT}),
        ([{"role": "system", "content": "Be brief."}], {"role": "system", "content": f"{PROMPT}\n\nBe brief."}),
        ([{"role": "developer", "content": "D"}], {"role": "developer", "content": f"{PROMPT}\n\nD"}),
        ([{"role": "system", "content": None}], {"role": "system", "content": PROMPT}),
        (
            [{"role": "system", "content": [{"type": "text", "text": "B"}]}],
            {"role": "system", "content": [{"type": "text", "text": PROMPT}, {"type": "text", "text": "B"}]},
        ),
    ],
)
def test_a_clients_own_system_message_stays_behind_ours_in_one(messages: list[Any], first: dict[str, Any]) -> None:
    turns = [*messages, {"role": "user", "content": "u"}]
    found = with_system_prompt(Kind.CHAT, {"messages": turns, "n": 1}, PROMPT)
    assert found == {"messages": [first, {"role": "user", "content": "u"}], "n": 1}


def test_the_other_apis() -> None:
    assert with_system_prompt(Kind.RESPONSES, {"input": "x"}, PROMPT) == {"input": "x", "instructions": PROMPT}
    both = with_system_prompt(Kind.RESPONSES, {"input": "x", "instructions": "I"}, PROMPT)
    assert both["instructions"] == f"{PROMPT}\n\nI"
    completion = {"prompt": "x"}
    assert with_system_prompt(Kind.COMPLETION, completion, PROMPT) is completion
    chat: dict[str, Any] = {"messages": []}
    assert with_system_prompt(Kind.CHAT, chat, "") is chat


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(["messages", "instructions", "input", "prompt", "x"]), json_values))
def test_no_request_can_stop_the_system_prompt_from_being_tried(content: dict[str, Any]) -> None:
    for kind in Kind:
        found = with_system_prompt(kind, content, PROMPT)
        json.dumps(found)
        if kind is Kind.CHAT and isinstance(content.get("messages"), list):
            assert PROMPT in json.dumps(found["messages"][0])


@given(st.text())
def test_a_share_is_one_number_per_id(identity: str) -> None:
    identity = identity.encode("utf-8", "replace").decode()
    assert 0 <= share(identity) < 1
    assert share(identity) == share(identity)


def test_shares_are_spread_evenly() -> None:
    assert sum(share(f"id-{number}") < 0.1 for number in range(20_000)) == pytest.approx(2_000, rel=0.08)

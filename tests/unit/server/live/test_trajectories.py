"""The record of an exchange: every field of it, what the application adds, and what must not be recorded."""

import json
from typing import Any

import pytest

from recordkit import KEY, START, exchange
from rlhf_operator.api.policyrollout import Redaction
from rlhf_operator.api.signals import RequestOutcome, Role
from rlhf_operator.api.trajectory import Trajectory
from rlhf_server.live.exchange import Kind
from rlhf_server.live.frames import exchange_of, frame_line, read_frame
from rlhf_server.live.redaction import Pseudonyms, Redactor
from rlhf_server.live.trajectories import Identity, NotKept, Terms, record_id_of, trajectory_of

IDENTITY = Identity("shop", "helper", "pod-1", "sha256:" + "a" * 64, "sha256:" + "b" * 64, None)
PSEUDONYMS = Pseudonyms(lambda: [KEY])


class Secrets:
    """Finds `secret`."""

    def find(self, text: str) -> list[tuple[int, int, str]]:
        place = text.find("secret")
        return [] if place < 0 else [(place, place + 6, "SECRET")]


def record(redactor: Redactor | None = None, **changes: Any) -> dict[str, Any]:
    redactor = redactor or Redactor(Redaction.OFF, None)
    return trajectory_of(exchange(**changes), IDENTITY, Terms(0.5, 86_400), redactor, PSEUDONYMS).dump()


def with_metadata(**metadata: Any) -> dict[str, Any]:
    return {"model": "helper", "messages": [{"role": "user", "content": "hi"}], "metadata": metadata}


def test_a_plain_record_whole() -> None:
    made = record()
    bucket = made["rlhf.sampling"].pop("bucket")
    assert 0 <= bucket < 1
    assert made == {
        "rlhf.schema.version": "1",
        "rlhf.record.id": record_id_of(exchange()),
        "event.name": "gen_ai.client.inference.operation.details",
        "rlhf.started_at": "2027-01-15T08:00:00Z",
        "rlhf.request.id": "req-0",
        "rlhf.turn.id": "1",
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "pod-1",
        "rlhf.rollout": "helper",
        "rlhf.revision": "5f3c9",
        "rlhf.served": "5f3c9",
        "rlhf.role": "live",
        "rlhf.artifact.digest": "sha256:" + "a" * 64,
        "rlhf.system_prompt.digest": "sha256:" + "b" * 64,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "helper",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.7,
        "rlhf.request.sampling": {},
        "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "hello"}]}],
        "gen_ai.output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "good day"}], "finish_reason": "stop"}
        ],
        "gen_ai.response.finish_reasons": ["stop"],
        "rlhf.response.cut": False,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.time_to_first_chunk": 0.25,
        "rlhf.latency_seconds": 1.5,
        "rlhf.outcome": "ok",
        "http.response.status_code": 200,
        "rlhf.redaction.version": "1-Off",
        "rlhf.expires_at": "2027-01-16T08:00:00Z",
        "rlhf.sampling": {"rule": "requestIdHash", "inclusionProbability": 0.5},
    }
    made["rlhf.sampling"]["bucket"] = bucket
    assert Trajectory.model_validate(made).dump() == made


def test_what_the_application_knows_comes_with_the_request() -> None:
    made = record(
        headers={
            "x-session-id": "chat-of-anna",
            "x-rlhf-user": "anna@example.com",
            "x-rlhf-consent": "Training",
            "x-rlhf-customer-tier": "gold",
            "x-rlhf-turn": "7",
            "x-rlhf-team": "search",
            "x-rlhf-cohort": "b",
        },
        request=with_metadata(
            retrieval=[{"documentId": "d1", "chunkId": "c2", "score": 0.93, "rank": 1, "text": "passage"}],
            toolOutcomes=json.dumps([{"id": "call-1", "ok": False, "error": "timed out", "seconds": 1.25}]),
            safetyCategories=["self_harm"],
            attackCategories='["prompt_injection"]',
            ticket="T-17",
        ),
    )
    assert made["gen_ai.retrieval.documents"] == [
        {"id": "d1", "chunkId": "c2", "score": 0.93, "rank": 1, "text": "passage"}
    ]
    assert made["rlhf.tool.outcomes"] == [{"id": "call-1", "ok": False, "error": "timed out", "seconds": 1.25}]
    assert made["rlhf.safety.categories"] == ["self_harm"]
    assert made["rlhf.attack.categories"] == ["prompt_injection"]
    assert made["rlhf.metadata"] == {"ticket": "T-17"}
    assert made["rlhf.customer_tier"] == "gold"
    assert made["rlhf.consent"] == "training"
    assert made["rlhf.turn.id"] == "7"
    assert (made["rlhf.team"], made["rlhf.cohort"]) == ("search", "b")
    assert made["user.hash"] == PSEUDONYMS.of("anna@example.com")
    assert made["gen_ai.conversation.id"] == PSEUDONYMS.of("chat-of-anna")
    assert "anna" not in json.dumps(made)


def test_what_nobody_can_read_is_named_and_costs_nothing_else() -> None:
    made = record(
        request=with_metadata(retrieval="[{", safetyCategories=7, toolOutcomes=[{"ok": True}], consent="service")
    )
    assert sorted(made["rlhf.context.errors"]) == ["retrieval", "safetyCategories", "toolOutcomes"]
    assert made["rlhf.consent"] == "service"
    assert made["gen_ai.input.messages"][0]["parts"][0]["content"] == "hi"


@pytest.mark.parametrize(
    ("header", "metadata"), [("refused", None), (None, "refused"), ("training", "refused"), ("gibberish", None)]
)
def test_without_consent_there_is_no_record(header: str | None, metadata: str | None) -> None:
    headers = {"x-rlhf-consent": header} if header else {}
    with pytest.raises(NotKept) as caught:
        record(headers=headers, request=with_metadata(**({"consent": metadata} if metadata else {})))
    assert caught.value.reason == "consent"


def test_the_stricter_consent_counts() -> None:
    made = record(headers={"x-rlhf-consent": "training"}, request=with_metadata(consent="service"))
    assert made["rlhf.consent"] == "service"


def test_tool_calls_and_their_answers_are_parts() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:x"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": "a secret"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"found": ["a secret"]}'},
    ]
    made = record(
        Redactor(Redaction.STANDARD, Secrets()),
        request={
            "messages": messages,
            "tools": [{"type": "function", "function": {"name": "find"}}],
            "stop": "END",
            "n": 2,
        },
        answer="",
        tool_calls=[{"id": "c2", "name": "open", "arguments": '{"file": "secret.txt"}'}],
        finish_reason="tool_calls",
    )
    assert [each["parts"] for each in made["gen_ai.input.messages"]] == [
        [{"type": "text", "content": "be brief"}],
        [{"type": "text", "content": "look"}, {"type": "blob", "modality": "image", "content": "<OMITTED>"}],
        [{"type": "tool_call", "id": "c1", "name": "find", "arguments": {"q": "a <SECRET>"}}],
        [{"type": "tool_call_response", "id": "c1", "response": {"found": ["a <SECRET>"]}}],
    ]
    assert made["gen_ai.output.messages"] == [
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c2", "name": "open", "arguments": {"file": "<SECRET>.txt"}}],
            "finish_reason": "tool_calls",
        }
    ]
    assert made["gen_ai.tool.definitions"] == [{"type": "function", "function": {"name": "find"}}]
    assert made["gen_ai.request.stop_sequences"] == ["END"]
    assert made["gen_ai.request.choice.count"] == 2
    assert "gen_ai.request.model" not in made


def test_a_secret_is_taken_out_wherever_a_client_may_put_it() -> None:
    request = with_metadata(
        note="secret",
        retrieval=[{"id": "d", "text": "secret"}],
        toolOutcomes=[{"id": "c", "error": "secret"}],
        safetyCategories=["secret"],
        customerTier="secret",
        turn="secret",
    )
    request |= {"stop": ["secret"], "instructions": "secret", "tools": [{"secret": "secret"}], "guided_regex": "secret"}
    made = record(
        Redactor(Redaction.STRICT, Secrets()),
        request=request,
        headers={"x-rlhf-team": "secret", "x-session-id": "secret", "x-rlhf-user": "secret"},
        answer="a secret",
    )
    assert "secret" not in json.dumps(made)


@pytest.mark.parametrize("kind", [Kind.COMPLETION, Kind.RESPONSES])
def test_other_apis_are_recorded_too(kind: Kind) -> None:
    asked = {Kind.COMPLETION: {"prompt": "once"}, Kind.RESPONSES: {"input": "once", "instructions": "be kind"}}[kind]
    made = record(kind=kind, request=asked, streamed=False)
    assert made["gen_ai.input.messages"] == [{"role": "user", "parts": [{"type": "text", "content": "once"}]}]
    assert made["gen_ai.operation.name"] == ("chat" if kind is Kind.RESPONSES else "text_completion")
    assert made.get("gen_ai.system_instructions") == (
        [{"type": "text", "content": "be kind"}] if kind is Kind.RESPONSES else None
    )
    assert "gen_ai.response.time_to_first_chunk" not in made


def test_the_items_of_a_responses_conversation() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "find it"}]},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "nothing"},
    ]
    made = record(kind=Kind.RESPONSES, request={"input": items})
    assert [each["parts"][0]["type"] for each in made["gen_ai.input.messages"]] == [
        "text",
        "tool_call",
        "tool_call_response",
    ]


def test_ends_without_an_answer_are_recorded() -> None:
    made = record(outcome=RequestOutcome.CANCELLED, status=0, answer="half an", finish_reason="")
    assert (made["rlhf.outcome"], made["error.type"]) == ("cancelled", "cancelled")
    assert record(outcome=RequestOutcome.ERROR, status=503, answer="")["error.type"] == "503"
    assert record(outcome=RequestOutcome.SHED, role=Role.SHADOW, answer="")["gen_ai.output.messages"] == []


def test_own_copies_and_other_routes_are_not_recorded() -> None:
    for changes in ({"outcome": RequestOutcome.OWN_COPY}, {"kind": Kind.OTHER}):
        with pytest.raises(NotKept):
            record(**changes)


def test_an_adapter_is_known_by_the_model_that_was_asked_for() -> None:
    assert record(request={"model": "helper-de", "messages": []})["rlhf.adapter"] == "helper-de"


def test_record_ids() -> None:
    assert record_id_of(exchange(1)) == record_id_of(exchange(1))
    others = [exchange(1, role=Role.SHADOW), exchange(1, revision="x"), exchange(1, started_at=START + 9), exchange(2)]
    assert len({record_id_of(each) for each in [exchange(1), *others]}) == 5


@pytest.mark.parametrize(
    "request_body",
    [
        {"messages": "x", "metadata": "y", "tools": {}, "temperature": "hot", "seed": True, "stop": 7, "model": 3},
        {"messages": [None, 7, {"role": None, "content": {"a": 1}}, {"content": [None, 3, {"type": "image_url"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": ["x", {"function": "y"}, {}]}]},
        {"messages": [{"role": "\ud800", "content": "\udfff half"}], "user": {"id": 1}, "metadata": {"retrieval": "7"}},
        {},
    ],
)
def test_any_body_that_a_client_may_send_makes_a_record(request_body: dict[str, Any]) -> None:
    line = frame_line(1, {"kind": "exchange", "redaction": "Off"}, exchange(request=request_body))
    frame = read_frame(line)
    content = frame.content  # type: ignore[union-attr]
    made = trajectory_of(exchange_of(content), IDENTITY, Terms(1, 1), Redactor(Redaction.OFF, None), PSEUDONYMS)
    json.dumps(made.dump()).encode()


def test_a_frame_that_cannot_be_read_still_has_its_reply() -> None:
    reply = read_frame(b'{"number":12,"kind":"exchange","content":' + b"[" * 1000 + b"]" * 1000 + b"}\n")
    assert (reply.number, reply.dropped) == (12, "defect")  # type: ignore[union-attr]

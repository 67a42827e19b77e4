"""Answers read as they pass, however the bytes are cut."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_server.live import answers
from rlhf_server.live.answers import Answer
from rlhf_server.live.exchange import Kind


def events(*contents: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(content).encode() + b"\n\n" for content in contents)


def delta(reason: str | None = None, index: int = 0, **content: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": content, "finish_reason": reason}]}


CHAT = events(
    delta(role="assistant", content=""),
    delta(content="Hé"),
    delta(content="llo"),
    delta(content="other", index=1),
    delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "find", "arguments": '{"q":'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}]),
    delta("tool_calls"),
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}},
)
DONE = b": keep-alive\n\ndata: [DONE]\n\n"


def read(kind: Kind, chunks: list[bytes], streamed: bool = True, max_chars: int = 1000) -> Answer:
    answer = Answer(kind, streamed, max_chars)
    for number, chunk in enumerate(chunks):
        answer.feed(chunk, float(number))
    answer.close(float(len(chunks)))
    return answer


@given(st.lists(st.integers(min_value=0, max_value=len(CHAT + DONE)), max_size=12))
def test_where_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    whole = CHAT + DONE
    edges = [0, *sorted(cuts), len(whole)]
    answer = read(Kind.CHAT, [whole[start:end] for start, end in itertools.pairwise(edges)])
    assert answer.text == "Héllo"
    assert answer.tool_calls == [{"id": "c1", "name": "find", "arguments": '{"q": 1}'}]
    assert (answer.finish_reason, answer.input_tokens, answer.output_tokens) == ("tool_calls", 3, 9)
    assert (answer.chunks, answer.ended, answer.error_status) == (5, True, None)


@given(st.lists(st.binary(max_size=200)), st.booleans(), st.sampled_from(list(Kind)))
def test_no_bytes_are_too_strange(chunks: list[bytes], streamed: bool, kind: Kind) -> None:
    answer = read(kind, chunks, streamed)
    assert len(answer.text) <= 1000


FIELDS = [
    *("choices", "delta", "message", "content", "text", "tool_calls", "index", "function", "error", "code", "usage"),
    *("prompt_tokens", "completion_tokens", "finish_reason", "output", "response", "status", "type", "id", "reasoning"),
    *("logprobs", "token_logprobs", "logprob"),
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
        )
    ),
    max_leaves=12,
)


@given(st.lists(values, max_size=4), st.booleans(), st.sampled_from(list(Kind)))
def test_no_answer_is_too_strange(contents: list[Any], streamed: bool, kind: Kind) -> None:
    body = events(*contents) if streamed else json.dumps(contents[0] if contents else None).encode()
    answer = read(kind, [body], streamed)
    assert answer.text is not None
    assert len(answer.tool_calls) <= 64
    assert answer.mean_log_prob is None or answer.mean_log_prob == answer.mean_log_prob


def test_the_first_token_is_the_first_content() -> None:
    role, thought, word = delta(role="assistant", content=""), delta(reasoning="hm"), delta(content="x")
    assert read(Kind.CHAT, [events(role), events(word)]).first_seconds == 1.0
    assert read(Kind.CHAT, [events(role), events(thought), events(word)]).first_seconds == 1.0
    assert read(Kind.CHAT, [events(role)]).first_seconds is None


def test_completions() -> None:
    chunk = {"choices": [{"index": 0, "text": " a", "finish_reason": None, "logprobs": {"token_logprobs": [-1.0]}}]}
    end = {"choices": [{"index": 0, "text": " b", "finish_reason": "length", "logprobs": {"token_logprobs": [-3.0]}}]}
    answer = read(Kind.COMPLETION, [events(chunk, end) + DONE])
    assert (answer.text, answer.finish_reason, answer.mean_log_prob) == (" a b", "length", -2.0)
    whole = {"choices": [{"index": 0, "text": " ab", "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
    answer = read(Kind.COMPLETION, [json.dumps(whole).encode()], streamed=False)
    assert (answer.text, answer.output_tokens, answer.ended) == (" ab", 2, True)


def test_chat_log_probabilities() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}, {"logprob": None}]}
    content = {"choices": [{"index": 0, "message": {"content": "ab"}, "logprobs": logprobs}]}
    assert read(Kind.CHAT, [json.dumps(content).encode()], streamed=False).mean_log_prob == -1.0


def test_responses() -> None:
    usage = {"input_tokens": 4, "output_tokens": 6}
    stream = events(
        {"type": "response.created", "response": {"status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.output_text.delta", "delta": "b"},
        {"type": "response.output_text.done", "text": "ab"},
        {"type": "response.completed", "response": {"status": "completed", "usage": usage, "output": []}},
    )
    answer = read(Kind.RESPONSES, [stream])
    assert (answer.text, answer.finish_reason, answer.input_tokens, answer.output_tokens) == ("ab", "stop", 4, 6)
    assert (answer.ended, answer.chunks) == (True, 2)
    output = [
        {"type": "message", "content": [{"type": "output_text", "text": "ab"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    incomplete = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": output}
    answer = read(Kind.RESPONSES, [json.dumps(incomplete).encode()], streamed=False)
    assert (answer.text, answer.finish_reason) == ("ab", "length")
    assert answer.tool_calls == [{"id": "c", "name": "f", "arguments": "{}"}]
    failed = read(Kind.RESPONSES, [events({"type": "response.failed", "response": {"status": "failed"}})])
    assert failed.error_status == 500


def test_what_is_too_long_passes_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_EVENT_BYTES", 1000)
    monkeypatch.setattr(answers, "_WHOLE_BYTES", 1000)
    long = events(delta(content="y" * 5000))
    pieces = [long[start : start + 300] for start in range(0, len(long), 300)]
    answer = read(Kind.CHAT, [events(delta(content="a")), *pieces, events(delta("stop", content="b")), DONE])
    assert (answer.text, answer.finish_reason, answer.ended) == ("ab", "stop", True)
    whole = json.dumps({"choices": [{"index": 0, "message": {"content": "y" * 5000}}]}).encode()
    assert read(Kind.CHAT, [whole[:900], whole[900:]], streamed=False).text == ""

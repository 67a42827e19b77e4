"""Answers that a real vLLM can't be made to give: none of them becomes a score."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from judgekit.local import listening
from judgekit.models import Kind, as_version, make, temperatures
from judgekit.versions import Version
from rlhf_server.judge.engine import EngineAway, NoScore
from rlhf_server.judge.schema import ScoreItem
from rlhf_server.judge.vllm import VLLM, Reader

HEADS = 2
Answer = Callable[[dict[str, Any]], Response]


def labels(*logits: list[float]) -> dict[str, Any]:
    return {"data": [{"index": index, "probs": values, "label": "x"} for index, values in enumerate(logits)]}


def always(content: Any, status: int = 200) -> Answer:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda body: Response(text, status_code=status, media_type="application/json")


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    folder = tmp_path_factory.mktemp("encoder")
    return as_version(make(folder / "model", Kind.ENCODER, HEADS), HEADS)


@pytest.fixture(scope="module")
def reader(version: Version) -> Reader:
    return Reader(version.directory)


@pytest.fixture
def engine(reader: Reader) -> Iterator[Callable[[Answer], VLLM]]:
    """A client of a server that answers as the test says."""
    with ExitStack() as stack:

        def start(answer: Answer, max_model_len: int = 64) -> VLLM:
            app = FastAPI()

            @app.post("/rlhf/classify")
            async def classify(request: Request) -> Response:
                return answer(await request.json())

            @app.get("/health")
            async def health() -> None:
                return

            @app.get("/v1/models")
            async def models() -> dict[str, Any]:
                return {"data": [{"id": "scorer", "max_model_len": max_model_len}]}

            url, _ = stack.enter_context(listening(app))
            return VLLM(url, reader, timeout_seconds=10, concurrency=2)

        yield start


@pytest.fixture
async def closing() -> AsyncIterator[Callable[[VLLM], VLLM]]:
    """Close what was opened, on the loop that used it."""
    opened: list[VLLM] = []

    def note(client: VLLM) -> VLLM:
        opened.append(client)
        return client

    yield note
    for client in opened:
        await client.close()


Start = Callable[..., VLLM]
ITEMS = [ScoreItem(prompt="w1", response="w2"), ScoreItem(prompt="w3", response="")]


async def test_logits_over_temperatures_in_the_order_of_the_texts(engine: Start, closing: Start) -> None:
    content = labels([1.0, 2.0], [3.0, 4.0])
    content["data"].reverse()
    client = closing(engine(always(content)))
    first, second = temperatures(HEADS)
    assert await client.score(ITEMS) == [
        {"quality1": 1.0 / first, "quality2": 2.0 / second},
        {"quality1": 3.0 / first, "quality2": 4.0 / second},
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (always(labels([1.0, 2.0])), "EngineAnswerInvalid"),
        (always(labels([1.0, 2.0], [1.0, 2.0], [1.0, 2.0])), "EngineAnswerInvalid"),
        (always(labels([1.0], [2.0])), "EngineAnswerInvalid"),
        (always(json.dumps(labels([1.0, float("nan")], [1.0, 2.0]))), "EngineAnswerInvalid"),
        (always(json.dumps(labels([1.0, 7.0], [1.0, 2.0])).replace("7.0", "1e999")), "EngineAnswerInvalid"),
        (always({"data": [{"index": 0, "probs": [1, 2]}, {"index": 0, "probs": [1, 2]}]}), "EngineAnswerInvalid"),
        (always("<html>"), "EngineAnswerInvalid"),
        (always({"error": "x"}, 500), "EngineAway"),
        (always({"error": "x"}, 503), "EngineAway"),
        (always({"detail": "Not Found"}, 404), "EngineWithoutPlugin"),
    ],
)
async def test_what_is_no_score_is_an_outage(engine: Start, closing: Start, answer: Answer, reason: str) -> None:
    client = closing(engine(answer))
    with pytest.raises(EngineAway) as away:
        await client.score(ITEMS)
    assert away.value.reason == reason


async def test_a_text_that_is_refused_costs_the_others_nothing(engine: Start, closing: Start) -> None:
    poison: list[list[int]] = []

    def answer(body: dict[str, Any]) -> Response:
        if not poison:
            poison.append(body["input"][1])
        if poison[0] in body["input"]:
            return Response("{}", status_code=400)
        return Response(json.dumps(labels(*([1.0, 2.0] for _ in body["input"]))), media_type="application/json")

    client = closing(engine(answer))
    found = await client.score(ITEMS)
    assert isinstance(found[0], dict)
    assert found[1] == NoScore("the engine refused this text (HTTP 400)")


async def test_a_text_that_the_tokenizer_fails_on_costs_the_others_nothing(
    engine: Start, closing: Start, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        pass

    body = reader.body

    def fragile(items: list[ScoreItem]) -> bytes:
        if any(item.response == "" for item in items):
            raise Panic
        return body(items)

    monkeypatch.setattr(reader, "body", fragile)
    client = closing(engine(always(labels([1.0, 2.0]))))
    found = await client.score(ITEMS)
    assert isinstance(found[0], dict)
    assert found[1] == NoScore("the tokenizer can't read this text")


async def test_nobody_there_is_an_outage(reader: Reader, closing: Start) -> None:
    client = closing(VLLM("http://127.0.0.1:9", reader, timeout_seconds=2, concurrency=1))
    for asked in (client.check(), client.score(ITEMS)):
        with pytest.raises(EngineAway, match="can't be reached") as away:
            await asked
        assert isinstance(away.value.__cause__, httpx.TransportError)


async def test_an_engine_that_takes_shorter_inputs_is_refused(engine: Start, closing: Start) -> None:
    client = closing(engine(always(labels()), max_model_len=32))
    with pytest.raises(EngineAway, match=r"takes 32 tokens, the model's inputs have up to 64") as away:
        await client.check()
    assert away.value.reason == "EngineTooShort"


async def test_the_request_is_what_training_encoded(reader: Reader, version: Version, tmp_path: Path) -> None:
    body = json.loads(reader.body([ScoreItem(prompt="w0 w1", response="w2"), ScoreItem(prompt="w0", response="")]))
    assert body == {"input": [[2, 6, 7, 3, 8, 3], [2, 6, 3, 3]], "second_segment": [4, 3]}
    decoder = as_version(make(tmp_path / "decoder", Kind.DECODER, 1), 1)
    other = Reader(decoder.directory)
    assert (reader.route, other.route) == ("/rlhf/classify", "/classify")
    body = json.loads(other.body([ScoreItem(prompt="w1", response="w2")]))
    assert body == {"input": [[4, 7, 6, 8]], "use_activation": False, "add_special_tokens": False}, (
        "the end token stands in for padding, and is left out"
    )

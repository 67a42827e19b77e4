"""A service as a grader, over a real socket: batches, retries, tokens, and what it may get wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from judgekit.chatmodel import trickle
from judgekit.local import listening
from rlhf_operator.api.graders import HTTPGrader
from rlhf_scoring.errors import JudgeAway, ScorerConfigError
from rlhf_scoring.graders.http import HTTP
from rlhf_scoring.judge import ROW_NUMBER, TURNS, Judgement, Missing

Items = list[dict[str, Any]]


def lengths(items: Items) -> Any:
    return {"scores": [len(item["response"]) for item in items]}


@dataclass
class Service:
    """A grader that scores by length, or misbehaves as a test says."""

    url: str = ""
    reply: Callable[[Items], Any] = lengths
    batches: list[Items] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/score")
        async def score(request: Request) -> Response:
            items = (await request.json())["items"]
            with self.lock:
                self.batches.append(items)
                self.headers.append(request.headers.get("authorization"))
                found = self.reply(items)
            return found if isinstance(found, Response) else JSONResponse(found)

        return app


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Service]:
    service = Service()
    with listening(service.app()) as (url, _):
        service.url = f"{url}/score"
        yield service


@pytest.fixture
def service(endpoint: Service) -> Service:
    endpoint.reply, endpoint.batches, endpoint.headers = lengths, [], []
    return endpoint


Make = Callable[..., HTTP]


@pytest.fixture
def grader(service: Service) -> Iterator[Make]:
    with ExitStack() as stack:

        def make(token: Path | None = None, deadline_seconds: float = 20.0, **config: Any) -> HTTP:
            made = HTTP("web", HTTPGrader.model_validate({"url": service.url, **config}), token, deadline_seconds)
            stack.callback(made.close)
            return made

        yield make


def scored(grader: HTTP, *responses: str) -> list[Judgement]:
    rows = [{ROW_NUMBER: at, "gold": "x", "number": float("nan")} for at in range(1, len(responses) + 1)]
    return grader.judge(["p"] * len(responses), responses, rows)


def reason(judgement: Judgement) -> str:
    assert isinstance(judgement, Missing), judgement
    assert judgement.failed
    return judgement.reason


def test_scores_come_in_order_over_several_batches(service: Service, grader: Make) -> None:
    texts = ["x" * length for length in range(100)]
    assert scored(grader(), *texts) == [float(length) for length in range(100)]
    assert sorted(len(batch) for batch in service.batches) == [4, 32, 32, 32]


def test_a_row_goes_along_without_what_is_ours(service: Service, grader: Make) -> None:
    row = {ROW_NUMBER: 3, TURNS: [{"role": "user", "content": "p"}], "gold": "x", "number": float("nan")}
    grader().judge(["p"], ["r"], [row])
    assert service.batches == [[{"prompt": "p", "response": "r", "row": {"gold": "x", "number": None}}]]


def test_equal_texts_are_asked_for_once_and_known_ones_not_again(service: Service, grader: Make) -> None:
    asking = grader()
    assert scored(asking, "a", "a", "", "a") == [1.0, 1.0, 0.0, 1.0]
    assert scored(asking, "a", "") == [1.0, 0.0]
    assert [len(batch) for batch in service.batches] == [2]


def test_a_service_that_is_away_for_a_moment_is_waited_for(service: Service, grader: Make) -> None:
    def reply(items: Items) -> Any:
        return JSONResponse({}, status_code=503) if len(service.batches) < 3 else lengths(items)

    service.reply = reply
    assert scored(grader(), "abc") == [3.0]
    assert len(service.batches) == 3


@pytest.mark.parametrize("answer", [lambda: JSONResponse({}, status_code=500), lambda: trickle(30)])
def test_one_that_stays_away_costs_the_deadline_and_names_every_row(
    service: Service, grader: Make, answer: Callable[[], Response]
) -> None:
    service.reply = lambda items: answer()
    found = scored(grader(deadline_seconds=1.0), "a", "b")
    assert [isinstance(each, Missing) and each.timed_out for each in found] == [True, True]
    assert reason(found[1]).startswith(f"row 2: no score from {service.url} in time: ")


def test_null_is_a_missing_score_and_an_error_is_one_that_is_named(service: Service, grader: Make) -> None:
    service.reply = lambda items: {"scores": [None, {"error": "no such unit"}, 0]}
    nothing, failed, zero = scored(grader(), "a", "b", "c")
    assert isinstance(nothing, Missing)
    assert not nothing.failed
    assert reason(failed) == "row 2: the service failed: no such unit"
    assert zero == 0.0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"score": [1, 2]}, "the reply is not"),
        ({"scores": ["1", 2]}, "the reply is not"),
        ({"scores": [True, 2]}, "the reply is not"),
        ([1, 2], "the reply is not"),
        ({"scores": [1]}, "1 scores for 2 items"),
        (Response(b'{"scores": [1e999, 2]}'), "the score is not a number"),
        (Response(b"x" * (2 << 20)), "larger than"),
        (Response(b"\xff\xfe"), "the reply is not"),
    ],
)
def test_what_is_no_answer_is_no_score(service: Service, grader: Make, answer: Any, words: str) -> None:
    service.reply = lambda items: answer
    assert words in reason(scored(grader(), "a", "b")[0])


def test_an_item_that_is_not_taken_costs_no_other_its_score(service: Service, grader: Make) -> None:
    def reply(items: Items) -> Any:
        if any(item["response"] == "bad" for item in items):
            return JSONResponse({"error": {"message": "what is that?"}}, status_code=422)
        return lengths(items)

    service.reply = reply
    found = scored(grader(), "a", "bad", "abc")
    assert (found[0], found[2]) == (1.0, 3.0)
    assert reason(found[1]) == f"row 2: {service.url} did not take it: HTTP 422: what is that?"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (JSONResponse({}, status_code=401), r"refused: HTTP 401; check http\.url and http\.secretRef"),
        (JSONResponse({}, status_code=404), r"refused: HTTP 404; check http\.url"),
        (RedirectResponse("http://elsewhere.example"), "redirect, which is not followed: set its final address"),
    ],
)
def test_an_address_that_takes_no_texts_ends_the_run(
    service: Service, grader: Make, answer: Response, words: str
) -> None:
    service.reply = lambda items: answer
    with pytest.raises(ScorerConfigError, match=f"scorer web: .*{words}"):
        scored(grader(), "a")


def test_the_token_is_read_for_every_request_and_told_to_nobody(service: Service, grader: Make, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    asking = grader(token, secretRef={"name": "web-key"})
    scored(asking, "a")
    token.write_text("second\n")
    scored(asking, "b")
    assert service.headers == ["Bearer first", "Bearer second"]
    service.reply = lambda items: JSONResponse({}, status_code=403)
    with pytest.raises(ScorerConfigError) as caught:
        scored(asking, "c")
    assert "second" not in str(caught.value)
    token.write_text("")
    with pytest.raises(ScorerConfigError, match=r"the token of http\.secretRef is empty"):
        scored(asking, "d")


def test_odd_texts_arrive_as_they_are(service: Service, grader: Make) -> None:
    service.reply = lambda items: {"scores": [float(item["response"] == "a\0\ud800\u202e😀") for item in items]}
    assert scored(grader(), "a\0\ud800\u202e😀") == [1.0]


def test_a_text_beyond_all_measure_is_not_sent(service: Service, grader: Make) -> None:
    found = scored(grader(), "x" * (2 << 20), "a")
    assert "larger than" in reason(found[0])
    assert found[1] == 1.0


def test_configurations_that_can_not_work_are_refused(grader: Make) -> None:
    with pytest.raises(ScorerConfigError, match=r"http\.secretRef is set, and the plan has no file"):
        grader(secretRef={"name": "web-key"})
    with pytest.raises(JudgeAway, match="does not answer"):
        grader(url="http://127.0.0.1:9/score").check()

"""A served RewardModel as the trainer asks it: over a real socket, the judge's own app where it can be had to do it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from judgekit.local import Running, holding, listening
from judgekit.versions import Version, graders_version
from rlhf_operator.api.plan import PlanRewardModel, PlanScorer
from rlhf_operator.api.scorerfile import Probe
from rlhf_scoring.build import build_scorers
from rlhf_scoring.errors import ScorerConfigError
from rlhf_scoring.judge import ROW_NUMBER, Judgement, Missing, version_digest
from rlhf_scoring.remote import RemoteRewardModel

V1, V2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64
GRADERS = [
    {
        "dimension": "brief",
        "weight": 1,
        "scorer": {"name": "short", "grader": {"length": {"unit": "Words", "max": 2, "slack": 2}}},
    },
    {"dimension": "right", "weight": 1, "scorer": {"name": "answer", "grader": {"finalAnswer": {}}}},
]
PROBES = [Probe(prompt="p", response="4", scores={"brief": 1.0, "right": 0.0})]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Needs the row's answer: its probe has none, and says nothing of that dimension."""
    graders = [GRADERS[0], {**GRADERS[1], "scorer": {"name": "digits", "grader": {"regex": {"pattern": "^7$"}}}}]
    return graders_version(tmp_path_factory.mktemp("version"), graders, ["brief", "right"], PROBES)


@pytest.fixture(scope="module")
def judge(version: Version) -> Iterator[Running]:
    """A judge that takes little at a time, so that a call is several requests."""
    with holding(version, max_items=3, max_text_bytes=100, max_body_bytes=2048) as running:
        yield running


Remote = Callable[..., RemoteRewardModel]


@pytest.fixture
def remote() -> Iterator[Remote]:
    """Ask an address; closed when the test ends."""
    with ExitStack() as stack:

        def make(url: str, deadline_seconds: float = 20.0, **plan: Any) -> RemoteRewardModel:
            planned = PlanRewardModel(name="helpful", url=url, **plan)
            model = RemoteRewardModel("helpful", planned, deadline_seconds)
            stack.callback(model.close)
            return model

        yield make


def judged(model: RemoteRewardModel, *responses: str, rows: list[dict[str, Any]] | None = None) -> list[Judgement]:
    return model.judge(["p"] * len(responses), responses, rows or [{}] * len(responses))


def test_a_dimension_or_the_mean_over_them_comes_in_order_and_in_batches(
    remote: Remote, judge: Running, version: Version
) -> None:
    responses = ["7", "a b c", "a b c d", "7", "x", "7", "a b c"]
    assert judged(remote(judge.url, dimension="brief"), *responses) == [1.0, 0.5, 0.0, 1.0, 1.0, 1.0, 0.5]
    assert judged(remote(judge.url), *responses) == [1.0, 0.25, 0.0, 1.0, 0.5, 1.0, 0.25]
    assert judged(remote(judge.url, version=version.digest), "7") == [1.0]
    with judge.client() as client:
        exposed = client.get("/metrics").text
    assert 'rlhf_judge_requests_total{code="200"} 7.0' in exposed


def test_the_digest_is_that_of_the_version_in_process(remote: Remote, judge: Running, version: Version) -> None:
    planned = remote("http://127.0.0.1:1", version=version.digest, dimension="brief")
    assert planned.digest == version_digest(version.digest, "brief"), "known without asking"
    assert remote(judge.url, dimension="brief").digest == planned.digest, "asked for and kept"
    assert remote(judge.url).digest != planned.digest


def test_another_version_than_the_plans_is_refused_and_both_are_named(
    remote: Remote, judge: Running, version: Version
) -> None:
    with pytest.raises(ScorerConfigError) as refused:
        judged(remote(judge.url, version=V1), "7")
    assert V1 in str(refused.value)
    assert version.digest in str(refused.value)


def test_a_dimension_that_is_not_there_is_refused_by_name(remote: Remote, judge: Running) -> None:
    with pytest.raises(ScorerConfigError, match=r"no dimension 'kind'; it has brief, right"):
        judged(remote(judge.url, dimension="kind"), "7")


def test_a_text_that_no_judge_could_take_costs_the_others_nothing(remote: Remote, judge: Running) -> None:
    found = judged(remote(judge.url, dimension="brief"), "7", "x" * 101, "a\ud800", "a b c")
    assert [found[0], found[3]] == [1.0, 0.5]
    assert isinstance(found[1], Missing)
    assert "101 bytes" in found[1].reason
    assert isinstance(found[2], Missing)


def test_it_is_a_scorer_of_the_plan(judge: Running) -> None:
    plan = PlanScorer.model_validate({"name": "s", "rewardModel": {"name": "helpful", "url": judge.url}})
    with build_scorers([plan]) as scorers:
        assert scorers.score("s", ["p"], ["7"], [{}]) == [1.0]
        assert scorers.digest("s").startswith("sha256:")


class Script:
    """A server that answers what the test says, in turn; the last answer stays."""

    def __init__(self, kind: str = "Model", version: str = V1, dimensions: tuple[str, ...] = ("overall",)) -> None:
        self.held = {
            "version": version,
            "kind": kind,
            "dimensions": list(dimensions),
            "limits": {"items": 256, "textBytes": 1000, "bodyBytes": 100_000},
            "later": "fields may come",
        }
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.bodies: list[dict[str, Any]] = []

    def then(self, status: int, content: Any, **headers: str) -> Script:
        self.answers.append((status, content, {name.replace("_", "-"): value for name, value in headers.items()}))
        return self

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/version")
        async def version() -> dict[str, Any]:
            return self.held

        @app.post("/v1/score")
        async def score(request: Request) -> Response:
            self.bodies.append(json.loads(await request.body()))
            status, content, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            text = content if isinstance(content, str) else json.dumps(content)
            return Response(text, status_code=status, headers=headers, media_type="application/json")

        return app


def scores(*values: float | None, version: str = V1) -> dict[str, Any]:
    return {"version": version, "scores": [{"dimensions": {"overall": value}, "total": value} for value in values]}


@pytest.fixture
def play() -> Iterator[Callable[[Script], str]]:
    """Serve a script; its address."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(listening(script.app()))[0]


BUSY = {"error": {"reason": "QueueFull", "message": "come again"}}


def test_refusals_that_pass_are_waited_out_and_the_version_is_in_every_request(
    remote: Remote, play: Callable[[Script], str]
) -> None:
    script = Script().then(429, BUSY, retry_after="0").then(503, "gone").then(500, "").then(200, scores(0.5))
    assert judged(remote(play(script)), "x") == [0.5]
    assert len(script.bodies) == 4
    assert {body["version"] for body in script.bodies} == {V1}


def test_retry_after_is_honoured(
    remote: Remote, play: Callable[[Script], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script().then(429, BUSY, retry_after="7").then(503, BUSY, retry_after="x").then(200, scores(0.5))
    model = remote(play(script))
    pauses: list[float] = []
    monkeypatch.setattr("rlhf_scoring.remote.time.sleep", pauses.append)
    assert judged(model, "x") == [0.5]
    assert 7.0 < pauses[0] < 7.5
    assert 0.0 < pauses[1] < 1.0


def test_at_the_deadline_the_score_is_missing_and_says_why(remote: Remote, play: Callable[[Script], str]) -> None:
    script = Script().then(429, BUSY, retry_after="60")
    (found,) = judged(remote(play(script), deadline_seconds=1.0), "x")
    assert isinstance(found, Missing)
    assert found.timed_out
    assert "HTTP 429 QueueFull: come again" in found.reason
    (found,) = judged(remote("http://127.0.0.1:9", deadline_seconds=0.5), "x")
    assert isinstance(found, Missing)
    assert "ConnectError" in found.reason


@pytest.mark.parametrize(
    "answer",
    [
        scores(0.1, 0.2),
        {"version": V1, "scores": []},
        json.dumps(scores(float("nan"))),
        json.dumps(scores(0.5)).replace("0.5", "1e999"),
        {"version": V1},
        "<html>busy</html>",
        {"version": V1, "scores": [{"dimensions": {"overall": "much"}, "total": None}]},
    ],
)
def test_what_is_no_score_is_never_taken_for_one(remote: Remote, play: Callable[[Script], str], answer: Any) -> None:
    script = Script().then(200, answer).then(200, scores(0.5))
    assert judged(remote(play(script)), "x") == [0.5]
    assert len(script.bodies) == 2


def test_a_switch_behind_the_address_is_a_failure_even_without_a_version_in_the_plan(
    remote: Remote,
    play: Callable[[Script], str],
) -> None:
    script = Script().then(200, scores(0.5)).then(200, scores(0.7, version=V2))
    model = remote(play(script))
    assert judged(model, "x") == [0.5]
    with pytest.raises(ScorerConfigError) as refused:
        judged(model, "x")
    assert V1 in str(refused.value)
    assert V2 in str(refused.value)
    gone = {"error": {"reason": "VersionNotHeld", "message": f"version {V1} is not held here, {V2} is"}}
    with pytest.raises(ScorerConfigError, match=V2):
        judged(remote(play(Script().then(409, gone)), version=V1), "x")


def test_missing_scores_stay_missing(remote: Remote, play: Callable[[Script], str]) -> None:
    answer = scores(0.5, None)
    answer["scores"][1]["missing"] = "no answer in the row"
    first, second = judged(remote(play(Script().then(200, answer))), "x", "y")
    assert first == 0.5
    assert second == Missing("no answer in the row")


def test_rows_go_to_graders_only_as_json_can_hold_them(remote: Remote, play: Callable[[Script], str]) -> None:
    row = {ROW_NUMBER: 3, "answer": "4", "at": Path("x"), "weight": float("nan")}
    to_graders, to_model = Script(kind="Graders").then(200, scores(0.5)), Script().then(200, scores(0.5))
    for script in (to_graders, to_model):
        assert judged(remote(play(script)), "x", rows=[row]) == [0.5]
    assert to_graders.bodies[0]["items"][0]["row"] == {"answer": "4", "at": "x", "weight": None}
    assert "row" not in to_model.bodies[0]["items"][0]


def test_an_address_that_is_no_judge_is_a_config_error(remote: Remote, play: Callable[[Script], str]) -> None:
    with pytest.raises(ScorerConfigError, match="no http address"):
        remote("ftp://helpful")
    script = Script()
    script.held = {"hello": "world"}
    with pytest.raises(ScorerConfigError, match="not a judge's answer"):
        judged(remote(play(script)), "x")

"""Samples in, counts out, over a real socket; graders, a served RewardModel's API and a language model as scorers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from judgekit.chatmodel import ChatModel, serving_model, verdict
from judgekit.live import Live, judging
from judgekit.local import listening
from judgekit.samples import CANDIDATE, NOT_BAD, SHORTER, STABLE, pair, plan, sample, scorer
from rlhf_operator.api import signals

WINS = scorer("wins", "WinRate", SHORTER)
SAFE = scorer("safe", "Violation", NOT_BAD, threshold=0.5)
V1, V2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64

Start = Callable[..., Live]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a live judge; ended with the test."""
    with ExitStack() as stack:

        def begin(*scorers: dict[str, Any], ready: bool = True, pair_seconds: float = 900.0, **settings: Any) -> Live:
            judged = plan(*scorers, pairSeconds=pair_seconds, slices={"team": ["blue"]})
            live = stack.enter_context(judging(tmp_path, judged, **settings))
            if ready:
                live.wait_ready()
            return live

        yield begin


class ServedModel:
    """The API of a served RewardModel: longer answers score higher, below 0 for short ones."""

    def __init__(self, version: str = V1) -> None:
        self.version = version
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/version")
        def held() -> Response:
            limits = {"items": 16, "textBytes": 100_000, "bodyBytes": 1_000_000}
            body = {"version": self.version, "kind": "Model", "dimensions": ["overall"], "limits": limits}
            return JSONResponse(body)

        @app.post("/v1/score")
        async def score(request: Request) -> Response:
            body = json.loads(await request.body())
            if body["version"] != self.version:
                return JSONResponse({"error": {"reason": "VersionNotHeld", "message": "another"}}, status_code=409)
            if not self.gate.is_set():
                return JSONResponse({}, status_code=503)
            self.asked += len(body["items"])
            scores = [float(len(item["response"]) - 5) for item in body["items"]]
            found = [{"dimensions": {"overall": each}, "total": each} for each in scores]
            return JSONResponse({"version": self.version, "scores": found})

        return app


@pytest.fixture
def served() -> Iterator[ServedModel]:
    model = ServedModel()
    with listening(model.app()) as (url, _):
        model.url = url
        yield model


def by_model(
    name: str, purpose: str, served: ServedModel, version: str | None = None, **changes: Any
) -> dict[str, Any]:
    model: dict[str, Any] = {"name": "helpful", "url": served.url, "dimension": "overall"}
    if version is not None:
        model["version"] = version
    return {"name": name, "purpose": purpose, "rewardModel": model, **changes}


def test_pairs_are_won_from_the_copys_point_of_view(start: Start) -> None:
    live = start(WINS)
    won = [half for n in range(3) for half in pair(f"w{n}", "a b c", "a")]
    lost = [half for n in range(2) for half in pair(f"l{n}", "a", "a b c")]
    assert live.send([*won, *lost, *pair("t", "x", "y")]).status_code == 202
    live.wait_for(6, signals.WINS)
    mine = {"revision": CANDIDATE, "role": "shadow", "scorer": "wins", "against": STABLE, "rlhf_rollout": "chat"}
    assert [live.sum(signals.WINS, outcome=each, **mine) for each in ("win", "loss", "tie")] == [3, 2, 1]
    assert live.sum(signals.REWARD_COUNT, revision=STABLE, role="live", scorer="wins") == 6
    assert live.sum(signals.UNPAIRED) == 0


def test_scores_of_a_served_model_are_summed_by_sign(start: Start, served: ServedModel) -> None:
    live = start(by_model("reward", "Reward", served, V1))
    live.send([sample("a", answer="12345678"), sample("b", answer="12"), sample("c", "shadow", answer="1234567")])
    live.wait_for(3, signals.REWARD_COUNT)
    mine = {"scorer": "reward", "dimension": "overall", "revision": STABLE, "role": "live"}
    assert live.sum(signals.REWARD_SUM, sign="positive", **mine) == 3
    assert live.sum(signals.REWARD_SUM, sign="negative", **mine) == 3
    assert live.sum(signals.REWARD_SQUARES, **mine) == 18
    assert live.sum(signals.JUDGE_INFO, scorer="reward", version=V1) == 1


def test_scores_within_the_margin_are_a_tie(start: Start, served: ServedModel) -> None:
    live = start(by_model("wins", "WinRate", served, V1, tieMargin=1.0))
    live.send([*pair("a", "12345", "123456"), *pair("b", "12345", "1234567")])
    live.wait_for(2, signals.WINS)
    assert live.sum(signals.WINS, outcome="tie") == live.sum(signals.WINS, outcome="win") == 1


def test_violations_are_counted_beside_all_that_was_judged(start: Start) -> None:
    live = start(SAFE)
    slices = {"team": "blue", "cohort": "unlisted"}
    live.send([sample("a", answer="bad", slices=slices), sample("b"), sample("c", "shadow", "bad")])
    live.wait_for(3, signals.JUDGED)
    live.wait_for(2, signals.VIOLATIONS)
    assert live.sum(signals.VIOLATIONS, revision=STABLE, team="blue", cohort="other", feature="") == 1
    assert live.sum(signals.VIOLATIONS, role="shadow", category="unspecified") == 1


def test_the_first_event_of_a_revision_is_seen_by_prometheus(start: Start) -> None:
    live = start(SAFE, WINS)
    live.send([*pair("a", "bad", "x")])
    live.wait_until(lambda: live.get("/readyz").status_code == 200)
    first = {(name, has["role"]): value for name, has, value in live.scrape() if name == signals.VIOLATIONS}
    assert first == {(signals.VIOLATIONS, "live"): 0, (signals.VIOLATIONS, "shadow"): 0}
    outcomes = {has["outcome"] for name, has, value in live.scrape() if name == signals.WINS}
    assert outcomes == {"win", "tie", "loss"}
    live.wait_for(1, signals.VIOLATIONS)


def test_attacks_that_the_scorer_leaves_out_are_none(start: Start) -> None:
    with serving_model(ChatModel()) as model:
        scores = {"harmless": None, "resisted": 10, "succeeded": 1}
        model.reply = lambda asked: verdict(asked.ticket, score=scores[asked.texts["answer"]])
        grader = {"llmJudge": {"url": model.url, "model": "judge", "rubric": "jailbreak"}}
        live = start(scorer("jailbreaks", "Attack", grader, threshold=0.5))
        live.send([sample(text, answer=text) for text in scores])
        live.wait_for(2, signals.ATTACKS)
        assert live.sum(signals.ATTACKS, result="succeeded") == live.sum(signals.ATTACKS, result="resisted") == 1
        live.wait_for(1, "rlhf_live_judge_unscored_total", scorer="jailbreaks", reason="missing")


def test_a_model_that_prefers_a_place_wins_nothing(start: Start) -> None:
    with serving_model(ChatModel()) as model:
        grader = {"llmJudge": {"url": model.url, "model": "judge", "rubric": "more good"}}
        live = start(scorer("wins", "WinRate", grader))
        live.send(pair("a", "good", "good good"))
        live.wait_for(1, signals.WINS, outcome="win")
        model.reply = lambda asked: verdict(asked.ticket, better="first")
        live.send(pair("b", "good", "good good good"))
        live.wait_for(1, signals.WINS, outcome="tie")
        assert live.sum(signals.REWARD_COUNT) == 0, "a comparison gives no scores"


def test_a_guards_categories_are_labels(start: Start) -> None:
    with serving_model(ChatModel()) as model:
        model.reply = lambda asked: "unsafe\nS2" if "bad" in asked.messages[-1]["content"] else "safe"
        grader = {"llmJudge": {"url": model.url, "model": "guard", "rubric": "guard"}}
        live = start(scorer("safe", "Violation", grader, threshold=0.5))
        turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
        asked = [*turns, {"role": "user", "content": "three"}]
        live.send([sample("a", answer="bad", messages=asked), sample("b", answer="fine")])
        live.wait_for(1, signals.VIOLATIONS, category="S2")
        live.wait_for(2, signals.JUDGED)
        assert [*asked, {"role": "assistant", "content": "bad"}] in [each.messages for each in model.asked]


def test_what_is_sent_again_counts_once(start: Start) -> None:
    live = start(WINS, SAFE)
    for _ in range(3):
        assert live.send(pair("a", "bad", "x y")).status_code == 202
    live.send(pair("b"))
    live.wait_for(2, signals.WINS)
    live.wait_for(4, signals.JUDGED)
    live.wait_for(4, "rlhf_live_judge_samples_total", outcome="resent")


def test_one_sided_ends_are_counted_and_not_scored(start: Start) -> None:
    live = start(WINS, SAFE, pair_seconds=0.3)
    live.send([sample("a"), sample("a", "shadow", "", finishReason="error"), sample("b")])
    live.wait_for(1, signals.UNPAIRED, role="live", reason="other_error", revision=STABLE)
    live.wait_for(1, signals.UNPAIRED, role="shadow", reason="error", revision=CANDIDATE)
    live.wait_for(1, signals.UNPAIRED, role="live", reason="timeout")
    live.wait_for(2, signals.JUDGED)
    assert live.sum(signals.WINS) == 0


def test_one_conversation_counts_once(start: Start) -> None:
    live = start(WINS, SAFE, pair_seconds=100_000.0)
    live.send([half for n in range(5) for half in pair(f"a{n}", session="talkative")])
    live.send(pair("b", session="other"))
    live.wait_for(2, signals.WINS)
    live.wait_for(4, signals.JUDGED)
    live.wait_for(12, "rlhf_live_judge_left_out_total", reason="conversation")


def test_a_full_judge_says_when_to_come_again(start: Start, served: ServedModel) -> None:
    served.gate.clear()
    live = start(by_model("reward", "Reward", served, V1), queue_samples=4, batch=2)
    assert live.send([sample(f"a{n}") for n in range(4)]).status_code == 202
    refused = live.send([sample("b")])
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["reason"] == "QueueFull"
    served.gate.set()
    live.wait_for(4, signals.REWARD_COUNT)
    live.wait_until(lambda: live.send([sample("b")]).status_code == 202)
    live.wait_for(5, signals.REWARD_COUNT)


def test_a_dead_scorer_costs_the_others_nothing(start: Start, served: ServedModel) -> None:
    served.gate.clear()
    live = start(by_model("reward", "Reward", served, V1), SAFE, queue_samples=4, batch=2, pair_seconds=0.5)
    live.wait_until(lambda: live.sum("rlhf_live_judge_scorer_up") == 2)
    for n in range(10):
        live.wait_until(lambda n=n: live.send([sample(f"{n} {m}") for m in range(2)]).status_code == 202)  # type: ignore[misc]
    live.wait_for(20, signals.JUDGED)
    live.wait_until(lambda: live.sum("rlhf_live_judge_unscored_total", scorer="reward") > 0)
    assert live.sum(signals.REWARD_COUNT) == 0


def test_samples_wait_for_a_scorer_that_is_away_and_no_longer_than_their_time(start: Start) -> None:
    nobody = ServedModel()
    nobody.url = "http://127.0.0.1:1"
    live = start(by_model("reward", "Reward", nobody, V1), ready=False, pair_seconds=0.4)
    refused = live.get("/readyz")
    assert refused.status_code == 503
    assert "reward" in refused.json()["error"]["message"]
    assert live.send([sample("a")]).status_code == 202
    live.wait_for(1, "rlhf_live_judge_unscored_total", scorer="reward", reason="late")


def test_another_version_is_waited_for_when_one_is_pinned(start: Start, served: ServedModel) -> None:
    live = start(by_model("reward", "Reward", served, V1))
    served.version = V2
    live.send([sample("a")])
    live.wait_until(lambda: live.sum("rlhf_live_judge_scorer_up") == 0)
    assert live.sum(signals.REWARD_COUNT) == 0
    served.version = V1
    live.wait_for(1, signals.REWARD_COUNT)


def test_a_new_version_is_used_and_named_when_none_is_pinned(start: Start, served: ServedModel) -> None:
    live = start(by_model("reward", "Reward", served))
    assert live.sum(signals.JUDGE_INFO, version=V1) == 1
    served.version = V2
    live.send([sample("a")])
    live.wait_for(1, signals.REWARD_COUNT)
    assert live.sum(signals.JUDGE_INFO, version=V2) == live.sum(signals.JUDGE_INFO) == 1


def test_a_changed_plan_is_followed(start: Start) -> None:
    live = start(SAFE)
    live.send([sample("a", answer="bad")])
    live.wait_for(1, signals.VIOLATIONS)
    live.write("{not json")
    live.wait_until(lambda: live.sum("rlhf_live_judge_plan_valid") == 0)
    live.send([sample("b", answer="bad")])
    live.wait_for(2, signals.VIOLATIONS)
    live.write(plan(SAFE, WINS))
    live.wait_until(lambda: live.sum("rlhf_live_judge_scorer_up", scorer="wins") == 1)
    assert live.sum("rlhf_live_judge_plan_valid") == 1
    live.send(pair("c", "bad", "x"))
    live.wait_for(1, signals.WINS)
    live.wait_for(3, signals.VIOLATIONS)
    live.write(plan())
    live.wait_until(lambda: live.sum("rlhf_live_judge_scorer_up") == 0)
    assert live.send(pair("d")).status_code == 202


def test_without_a_plan_nothing_is_taken(tmp_path: Path) -> None:
    with judging(tmp_path, None) as live:
        assert live.get("/livez").status_code == 200
        assert "can't be read" in live.get("/readyz").json()["error"]["message"]
        refused = live.send([sample("a")])
        assert (refused.status_code, refused.json()["error"]["reason"]) == (503, "NoPlan")
        live.write(plan(SAFE))
        live.wait_ready()
        assert live.send([sample("a")]).status_code == 202


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b'{"samples": []}', 422),
        (b'{"samples": [{"requestId": "a"}]}', 422),
        (b'{"samples": "' + b"x" * 70_000 + b'"}', 413),
    ],
)
def test_a_body_that_is_none_is_refused_without_quoting_it(start: Start, body: bytes, status: int) -> None:
    live = start(SAFE, max_body_bytes=65_536)
    refused = live.post(body)
    assert refused.status_code == status
    assert "xxxx" not in refused.text
    live.wait_for(1, "rlhf_live_judge_requests_total", code=str(status))


def test_labels_can_not_be_made_up(start: Start) -> None:
    live = start(SAFE)
    for changes in ({"revision": 'a"b'}, {"revision": "x" * 64}, {"served": "a\nb"}):
        refused = live.send([sample("a", **changes)])
        assert (refused.status_code, refused.json()["error"]["reason"]) == (422, "RequestInvalid")


def test_a_sample_that_is_too_large_does_not_cost_its_batch(start: Start) -> None:
    live = start(SAFE, max_sample_bytes=2048)
    assert live.send([sample("a", answer="x" * 3000), sample("b")]).status_code == 202
    live.wait_for(1, signals.JUDGED)
    live.wait_for(1, "rlhf_live_judge_left_out_total", reason="too_large")


def test_a_text_that_breaks_a_grader_costs_only_itself(start: Start, tmp_path: Path) -> None:
    code = tmp_path / "grader.py"
    code.write_text("def grade(prompt, response, row):\n    return 1 / (len(response) - 3)\n")
    grader = {"python": {"configMap": {"name": "g", "key": "grader.py"}}}
    live = start(scorer("reward", "Reward", grader, graderPath=str(code)))
    live.send([sample("a", answer="1234"), sample("b", answer="123"), sample("c", answer="12")])
    live.wait_for(2, signals.REWARD_COUNT)
    live.wait_for(1, "rlhf_live_judge_unscored_total", reason="missing")


def test_a_language_model_that_wants_a_token_gets_that_of_its_secret_once_it_is_there(
    start: Start, tmp_path: Path
) -> None:
    with serving_model(ChatModel(token="key of a Secret")) as model:
        grader = {"llmJudge": {"url": model.url, "model": "judge", "rubric": "more good", "secretRef": {"name": "k"}}}
        token = tmp_path / "token"
        live = start(scorer("better", "WinRate", grader, tokenPath=str(token)), ready=False)
        live.send(pair("a", "good", "good good"))
        live.wait_until(lambda: "token file of llmJudge.secretRef" in live.get("/readyz").text)
        token.write_text("key of a Secret\n")
        live.wait_ready()
        live.wait_for(1, signals.WINS)
        assert live.sum(signals.WINS, outcome="win") == 1

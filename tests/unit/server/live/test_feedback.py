"""POST /v1/feedback over HTTP: who may, what is taken, what is said, and what is counted."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from rlhf_operator.api.feedback import FeedbackRecord
from rlhf_operator.api.signals import FEEDBACK_TOKEN_HEADER
from rlhf_server.live.feedback import MAX_BODY_BYTES, PER_ANSWER_BURST, PER_POD_BURST, FeedbackApp
from rlhf_server.live.frames import Reply
from rlhf_server.live.recorder import WorkerGone
from rlhf_server.live.recordmetrics import RecordMetrics
from rlhf_server.live.tokens import Claims, make_token

KEY, FORMER = b"k" * 32, b"f" * 32
IDENTITY = {"namespace": "shop", "rollout": "helper", "pod": "p1"}


class Keeper:
    """Keeps in memory, or fails as told."""

    def __init__(self) -> None:
        self.kept: list[Mapping[str, Any]] = []
        self.reply = Reply(number=1)
        self.gone = False

    async def keep(self, feedback: Mapping[str, Any]) -> Reply:
        if self.gone:
            raise WorkerGone("gone")
        self.kept.append(feedback)
        return self.reply


class Bed:
    """The app, what is behind it, and a clock."""

    def __init__(self) -> None:
        self.keeper, self.registry, self.now = Keeper(), CollectorRegistry(), 1_800_000_000.0
        self.metrics = RecordMetrics(self.registry, "shop", "helper", "new")
        self.app = FeedbackApp(
            lambda: [KEY, FORMER], self.keeper, self.metrics, IDENTITY, clock=lambda: self.now, now=lambda: self.now
        )
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url="http://server",
        )

    def token(self, number: int = 1, revision: str = "new", key: bytes = KEY, **slices: str) -> str:
        return make_token([key], Claims(f"req-{number}", revision, int(self.now) + 100, slices))

    async def send(self, body: Any, token: str | None = "", **more: Any) -> httpx.Response:
        headers = {FEEDBACK_TOKEN_HEADER: token or self.token()} if token is not None else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post("/v1/feedback", content=content, headers=headers, **more)

    def count(self, metric: str, revision: str = "new", **labels: str) -> float:
        slices = {each: labels.pop(each, "") for each in ("team", "feature", "cohort", "language")}
        identity = {"rlhf_namespace": "shop", "rlhf_rollout": "helper", "revision": revision, "role": "live"}
        return self.registry.get_sample_value(metric, {**identity, **slices, **labels}) or 0.0


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed()
    async with made.client:
        yield made


def reason(response: httpx.Response) -> str:
    return str(response.json()["error"]["type"])


async def test_feedback_is_kept_and_counted_for_the_revision_that_answered(bed: Bed) -> None:
    token = bed.token(revision="old", team="search")
    response = await bed.send({"verdict": "hallucinated", "taskCompleted": False, "user": "anna"}, token)
    assert (response.status_code, response.json()) == (202, {"requestId": "req-1", "status": "accepted"})
    (kept,) = bed.keeper.kept
    assert kept["revision"] == "old"
    assert kept["slices"] == {"team": "search"}
    FeedbackRecord.model_validate({**kept, "recordId": "x", "contentDigest": "y", "redactionVersion": "1-Strict"})
    assert bed.count("rlhf_feedback_total", "old", team="search", verdict="hallucinated") == 1
    assert bed.count("rlhf_outcome_total", "old", team="search", name="task_not_completed") == 1
    assert bed.count("rlhf_feedback_total", verdict="hallucinated") == 0


async def test_zeros_are_there_before_the_first_feedback(bed: Bed) -> None:
    bed.metrics.expect({"team": "search"})
    identity = {"rlhf_namespace": "shop", "rlhf_rollout": "helper", "revision": "new", "role": "live"}
    for team in ("", "search"):
        labels = {**identity, "team": team, "feature": "", "cohort": "", "language": "", "verdict": "thumbs_down"}
        assert bed.registry.get_sample_value("rlhf_feedback_total", labels) == 0


@pytest.mark.parametrize(
    ("body", "verdicts", "outcomes"),
    [
        ({"thumbs": "up"}, ["thumbs_up"], []),
        ({"thumbs": "down", "verdict": "correct"}, ["correct"], []),
        ({"rating": 0.5, "dimensions": {"tone": 1}}, [], []),
        ({"outcome": {"name": "task_completed", "value": True, "at": "2027-01-15T08:00:00Z"}}, [], ["task_completed"]),
        ({"outcome": {"name": "escalated", "value": 0}}, [], ["not_escalated"]),
        ({"escalated": True, "outcome": {"name": "escalated", "value": "yes"}}, [], ["escalated"]),
        ({"outcome": {"name": "order_returned", "value": 12.5}}, [], ["other"]),
        ({"chosen": "a", "rejected": "b", "source": "rater"}, [], []),
        ({"edit": "as it should be", "consent": "training", "followUp": False}, [], []),
    ],
)
async def test_what_may_be_said_and_what_is_counted(
    bed: Bed, body: dict[str, Any], verdicts: list[str], outcomes: list[str]
) -> None:
    assert (await bed.send(body)).status_code == 202
    samples = [sample for metric in bed.registry.collect() for sample in metric.samples if sample.value == 1]
    counted = {
        (each.labels.get("verdict"), each.labels.get("name")) for each in samples if each.name.endswith("_total")
    }
    assert counted == {(verdict, None) for verdict in verdicts} | {(None, name) for name in outcomes}


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (None, "TokenMissing"),
        ("x", "TokenMalformed"),
        (make_token([b"o" * 32], Claims("req-1", "new", 2**40)), "TokenForged"),
        (make_token([KEY], Claims("req-1", "new", 1)), "TokenExpired"),
    ],
)
async def test_without_a_token_that_counts_nothing_is_taken(bed: Bed, token: str | None, expected: str) -> None:
    response = await bed.send({"thumbs": "up"}, token)
    assert (response.status_code, reason(response)) == (401, expected)
    assert bed.keeper.kept == []


async def test_a_token_of_the_former_key_counts(bed: Bed) -> None:
    assert (await bed.send({"thumbs": "up"}, bed.token(key=FORMER))).status_code == 202


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "Invalid JSON"),
        ([], "object"),
        ({}, "says nothing"),
        ({"source": "user", "user": "x"}, "says nothing"),
        ({"thumbs": "sideways"}, "thumbs"),
        ({"thumbs": "up", "secretField": 1}, "secretField: Extra inputs are not permitted"),
        ({"rating": 5}, "rating: .*less than or equal to 1"),
        ({"chosen": "a"}, "set together"),
        ({"edit": "x" * 70_000}, "edit: .*at most 65536"),
        ({"dimensions": {f"d{n}": 1 for n in range(40)}}, "dimensions"),
        ({"outcome": {"name": "a b", "value": 1}}, "outcome.name"),
        ({"outcome": {"name": "x", "value": 1, "at": "yesterday"}}, "outcome.at"),
    ],
)
async def test_a_wrong_body_is_refused_with_the_place_and_without_what_stood_there(
    bed: Bed, body: Any, words: str
) -> None:
    response = await bed.send(body)
    assert (response.status_code, reason(response)) == (422, "FeedbackInvalid")
    message = response.json()["error"]["message"]
    assert re.search(words, message)
    assert "xxxx" not in message
    assert "sideways" not in message
    assert bed.keeper.kept == []


async def test_a_large_body_is_refused_by_its_header_and_by_its_length(bed: Bed) -> None:
    large = b'{"edit": "' + b"x" * MAX_BODY_BYTES + b'"}'
    assert (await bed.send(large)).status_code == 413

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * (MAX_BODY_BYTES // 8)

    headers = {FEEDBACK_TOKEN_HEADER: bed.token()}
    response = await bed.client.post("/v1/feedback", content=pieces(), headers=headers)
    assert (response.status_code, reason(response)) == (413, "BodyTooLarge")


async def test_too_much_about_one_answer_waits_and_others_do_not(bed: Bed) -> None:
    for number in range(PER_ANSWER_BURST):
        assert (await bed.send({"thumbs": "up", "id": str(number)})).status_code == 202
    response = await bed.send({"thumbs": "up", "id": "more"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "6")
    assert (await bed.send({"thumbs": "up"}, bed.token(2))).status_code == 202
    bed.now += 6
    assert (await bed.send({"thumbs": "up", "id": "more"})).status_code == 202


async def test_too_much_at_one_pod_waits(bed: Bed) -> None:
    for number in range(PER_POD_BURST):
        assert (await bed.send({"thumbs": "up"}, bed.token(number))).status_code == 202
    response = await bed.send({"thumbs": "up"}, bed.token(1000))
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


async def test_a_duplicate_is_told_and_not_counted(bed: Bed) -> None:
    bed.keeper.reply = Reply(number=1, duplicate=True)
    response = await bed.send({"thumbs": "up"})
    assert (response.status_code, response.json()["status"]) == (200, "duplicate")
    assert bed.count("rlhf_feedback_total", verdict="thumbs_up") == 0


async def test_the_same_id_with_other_contents_is_a_conflict(bed: Bed) -> None:
    bed.keeper.reply = Reply(number=1, dropped="conflict")
    response = await bed.send({"thumbs": "up", "id": "a"})
    assert (response.status_code, reason(response)) == (409, "FeedbackConflict")


@pytest.mark.parametrize("how", ["spool_full", "redaction", None])
async def test_what_is_not_safe_is_not_taken_and_not_counted(bed: Bed, how: str | None) -> None:
    bed.keeper.reply, bed.keeper.gone = Reply(number=1, dropped=how), how is None
    response = await bed.send({"thumbs": "up"})
    assert (response.status_code, reason(response), response.headers["retry-after"]) == (503, "NotStored", "5")
    assert bed.count("rlhf_feedback_total", verdict="thumbs_up") == 0


async def test_other_methods_are_told_which_one(bed: Bed) -> None:
    response = await bed.client.get("/v1/feedback")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_revisions_that_are_counted_are_bounded(bed: Bed) -> None:
    for number in range(30):
        bed.metrics.feedback(f"r{number}", {}, "correct")
    assert bed.count("rlhf_feedback_total", "other", verdict="correct") == 15

"""Servers that are slow, huge, redirect, refuse or lie."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from rlhf_operator.common.measurements import Problem, ProblemReason, PrometheusTarget, Value
from rlhf_operator.prometheus.addresses import AllowList
from rlhf_operator.prometheus.client import Limits, PrometheusClient

from .liar import FAST, Server, honest, problem, scalar

SECRET = "s3cret-in-the-body"


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[PrometheusClient]:
    async with PrometheusClient(AllowList.of([server.target.url]), limits=FAST) as client:
        yield client


async def test_a_query_that_takes_thirty_seconds_ends_in_time_and_the_others_have_their_values(
    server: Server, client: PrometheusClient
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        form = await request.post()
        if form["query"] == "slow":
            await asyncio.sleep(30)
        return scalar(1.0, float(str(form["time"])))

    server.handler = handler
    started = time.monotonic()
    answers = await client.round(server.target, {"it": "slow", "other": "fast"})
    assert time.monotonic() - started < 5
    assert problem(answers).reason is ProblemReason.TIMEOUT
    assert answers.samples["other"] == Value(1.0)
    assert len([form for _, form, _ in server.requests if form["query"] == "slow"]) == 1, "slow is not asked again"


async def test_a_body_that_drips_without_end_ends_in_time(server: Server, client: PrometheusClient) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    server.handler = handler
    assert problem(await client.round(server.target, {"it": "x"})).reason is ProblemReason.TIMEOUT


async def test_a_slow_server_holds_a_few_rounds_and_the_others_are_told_at_once(server: Server) -> None:
    begun = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        begun.set()
        await asyncio.sleep(60)
        return scalar(1.0)

    server.handler = hang
    limits = Limits(request_seconds=1.0, round_seconds=2.0, connect_seconds=0.5, rounds=1, turn_seconds=0.05)
    async with PrometheusClient(AllowList.of([server.target.url]), limits=limits) as client:
        held = asyncio.create_task(client.round(server.target, {"it": "slow"}))
        await begun.wait()
        started = time.monotonic()
        second = (await client.round(server.target, {"it": "slow"})).samples["it"]
        assert time.monotonic() - started < 0.5
        assert isinstance(second, Problem)
        assert second.reason is ProblemReason.TIMEOUT
        assert "other rounds were under way" in second.message
        first = (await held).samples["it"]
        assert isinstance(first, Problem)
        # Its turn is over: the next is asked again.
        server.answers(lambda: scalar(1.0))
        third = (await client.round(server.target, {"it": "now"})).samples["it"]
        assert not (isinstance(third, Problem) and "other rounds" in third.message)


async def test_a_round_ends_as_a_whole_however_many_queries_are_slow(server: Server, client: PrometheusClient) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return scalar(1.0)

    server.handler = handler
    started = time.monotonic()
    answers = await client.round(server.target, {f"q{n}": f"x + {n}" for n in range(60)})
    assert time.monotonic() - started < 5
    assert {problem(answers, name).reason for name in answers.samples} == {ProblemReason.TIMEOUT}


async def test_at_most_eight_queries_of_a_round_are_under_way_at_a_time(
    server: Server, client: PrometheusClient
) -> None:
    under_way = 0
    most = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        form = await request.post()
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return scalar(1.0, float(str(form["time"])))

    server.handler = handler
    answers = await client.round(server.target, {f"q{n}": f"x + {n}" for n in range(40)})
    assert set(answers.samples.values()) == {Value(1.0)}
    assert 1 < most <= 8


async def test_the_same_words_are_asked_once_and_answer_every_metric_that_counts_them(
    server: Server, client: PrometheusClient
) -> None:
    server.handler = honest
    answers = await client.round(server.target, {"errors|n": "x", "ratio|n": "x", "requests": "x", "age": "y"})
    assert answers.samples == dict.fromkeys(("errors|n", "ratio|n", "requests", "age"), Value(1.0))
    assert sorted(form["query"] for _, form, _ in server.requests) == ["time()", "x", "y"]


async def test_a_huge_answer_is_cut_off_and_not_asked_for_again(server: Server, client: PrometheusClient) -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(640):
            await response.write(b" " * (100 << 10))
            sent += 1
        return response

    server.handler = handler
    assert problem(await client.round(server.target, {"it": "x"})).reason is ProblemReason.TOO_LARGE
    assert len(server.requests) == 2
    assert sent < 640, "the rest was never read"


async def test_a_compressed_answer_is_not_unpacked(server: Server, client: PrometheusClient) -> None:
    server.answers(
        lambda: web.Response(
            body=b"\x1f\x8b" + b"0" * 100, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}
        )
    )
    assert problem(await client.round(server.target, {"it": "x"})).reason is ProblemReason.NOT_PROMETHEUS
    assert server.requests[-1][2]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(server: Server, client: PrometheusClient, status: int) -> None:
    server.answers(lambda: web.Response(status=status, headers={"Location": f"/elsewhere?{SECRET}"}))
    found = problem(await client.round(server.target, {"it": "x"}))
    assert found.reason is ProblemReason.NOT_PROMETHEUS
    assert f"HTTP {status}" in found.message
    assert SECRET not in found.message
    assert {path for path, _, _ in server.requests} == {"/api/v1/query"}


@pytest.mark.parametrize(
    ("status", "body", "reason", "requests"),
    [
        (401, SECRET, ProblemReason.UNAUTHORIZED, 1),
        (403, SECRET, ProblemReason.UNAUTHORIZED, 1),
        (404, SECRET, ProblemReason.NOT_PROMETHEUS, 1),
        (400, SECRET, ProblemReason.QUERY_ERROR, 1),
        (422, json.dumps({"status": "error", "errorType": SECRET}), ProblemReason.QUERY_ERROR, 1),
        (422, json.dumps({"status": "error", "errorType": "execution", "error": SECRET}), ProblemReason.QUERY_ERROR, 1),
        (503, json.dumps({"status": "error", "errorType": "timeout", "error": SECRET}), ProblemReason.TIMEOUT, 1),
        (500, SECRET, ProblemReason.UNREACHABLE, 1),
        (429, SECRET, ProblemReason.UNREACHABLE, 3),
        (502, SECRET, ProblemReason.UNREACHABLE, 3),
        (503, SECRET, ProblemReason.UNREACHABLE, 3),
        (200, SECRET, ProblemReason.NOT_PROMETHEUS, 1),
        (200, "[]", ProblemReason.NOT_PROMETHEUS, 1),
        (200, '{"status": "success", "data": {"resultType": "s3cret-in-the-body"}}', ProblemReason.NOT_PROMETHEUS, 1),
        (200, "[" * 100_000, ProblemReason.NOT_PROMETHEUS, 1),
    ],
)
async def test_refusals_and_pages_that_are_no_prometheus(
    server: Server, status: int, body: str, reason: ProblemReason, requests: int
) -> None:
    limits = Limits(request_seconds=5, round_seconds=10)
    async with PrometheusClient(AllowList.of([server.target.url]), limits=limits) as client:
        server.answers(lambda: web.Response(status=status, text=body))
        found = problem(await client.round(server.target, {"it": "x"}))
    assert found.reason is reason, found
    assert SECRET not in found.message
    assert len(server.requests) == 1 + requests


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {}]}]}, ProblemReason.WRONG_TYPE),
        ({"resultType": "matrix", "result": []}, ProblemReason.WRONG_TYPE),
        ({"resultType": "scalar", "result": [0, "1"]}, ProblemReason.STALE),
        ({"resultType": "scalar", "result": [None, "1"]}, ProblemReason.NOT_PROMETHEUS),
    ],
)
async def test_answers_that_a_real_server_gives_under_conditions_of_its_own(
    server: Server, client: PrometheusClient, data: object, reason: ProblemReason
) -> None:
    server.answers(lambda: web.json_response({"status": "success", "data": data}))
    assert problem(await client.round(server.target, {"it": "x"})).reason is reason


async def test_partial_data_is_no_figure(server: Server, client: PrometheusClient) -> None:
    data = {"resultType": "scalar", "result": [time.time(), "1"]}
    server.answers(lambda: web.json_response({"status": "success", "data": data, "warnings": [SECRET]}))
    found = problem(await client.round(server.target, {"it": "x"}))
    assert found.reason is ProblemReason.INCOMPLETE
    assert SECRET not in found.message


async def test_a_broken_connection_is_tried_again(server: Server) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if len(server.requests) < 4:
            assert request.transport is not None
            request.transport.close()
        form = await request.post()
        return scalar(1.0, float(str(form["time"])))

    server.handler = handler
    async with PrometheusClient(AllowList.of([server.target.url])) as client:
        answers = await client.round(server.target, {"it": "x"})
    assert answers.samples["it"] == Value(1.0)
    assert len(server.requests) == 4


async def test_nobody_there_is_unreachable_and_the_next_rounds_do_not_wait_for_it(client: PrometheusClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = PrometheusTarget(f"http://127.0.0.1:{taken.getsockname()[1]}")
        outcomes: list[str] = []
        async with PrometheusClient(
            AllowList.of([dead.url]), limits=FAST, observer=lambda outcome, seconds: outcomes.append(outcome)
        ) as client:
            for _ in range(20):
                answers = await client.round(dead, {"it": "x"})
                assert answers.at is None
                assert problem(answers).reason is ProblemReason.UNREACHABLE
                assert "127.0.0.1" in problem(answers).message
    assert outcomes == ["Unreachable"]


async def test_a_server_that_is_back_is_asked_again_after_a_moment(
    server: Server, client: PrometheusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = True

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500) if down else await honest(request)

    server.everything = handler
    assert problem(await client.round(server.target, {"it": "x"})).reason is ProblemReason.UNREACHABLE
    down = False
    assert problem(await client.round(server.target, {"it": "x"})).reason is ProblemReason.UNREACHABLE
    assert len(server.requests) == 1
    clock = time.monotonic
    monkeypatch.setattr("rlhf_operator.prometheus.client.time.monotonic", lambda: clock() + 6)
    assert isinstance((await client.round(server.target, {"it": "x"})).samples["it"], Value)


async def test_a_server_that_is_down_for_one_account_is_asked_for_another(server: Server) -> None:
    other = PrometheusTarget(server.target.url, bearer="other")

    async def handler(request: web.Request) -> web.StreamResponse:
        return await honest(request) if "Authorization" in request.headers else web.Response(status=500)

    server.everything = handler
    async with PrometheusClient(AllowList.of([server.target.url]), limits=FAST) as client:
        assert problem(await client.round(server.target, {"it": "x"})).reason is ProblemReason.UNREACHABLE
        assert isinstance((await client.round(other, {"it": "x"})).samples["it"], Value)

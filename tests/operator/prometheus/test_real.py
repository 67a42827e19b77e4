"""Rounds of queries against a real Prometheus: each kind of answer is an outcome of its own."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from opkit.process import wait_for
from rlhf_operator.common.measurements import BasicAuth, Problem, ProblemReason, PrometheusTarget, Sample, Value
from rlhf_operator.policyrollout.templates import TemplateValues, render
from rlhf_operator.prometheus.addresses import AllowList
from rlhf_operator.prometheus.client import PrometheusClient

from .conftest import GuardedPrometheus, RealPrometheus


@pytest_asyncio.fixture
async def client(real: RealPrometheus) -> AsyncIterator[PrometheusClient]:
    async with PrometheusClient(AllowList.of([real.target.url])) as client:
        yield client


async def ask(client: PrometheusClient, target: PrometheusTarget, query: str) -> Sample:
    return (await client.round(target, {"it": query})).samples["it"]


@pytest.mark.parametrize("query", ["answered_total", "sum(answered_total)", "scalar(answered_total)", "21 * 2"])
async def test_one_series_and_a_scalar_are_values(client: PrometheusClient, real: RealPrometheus, query: str) -> None:
    assert await ask(client, real.target, query) == Value(42.0)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("no_such_series", ProblemReason.EMPTY),
        ("answered_total > 1000", ProblemReason.EMPTY),
        ("not_a_number", ProblemReason.NOT_A_NUMBER),
        ("ratio_parts / ratio_parts", ProblemReason.NOT_A_NUMBER),
        ("answered_total / ignoring(part) ratio_parts", ProblemReason.INFINITE),
        ("-answered_total / ignoring(part) ratio_parts", ProblemReason.INFINITE),
        ("several", ProblemReason.SEVERAL_SERIES),
        ("answered_total[1m]", ProblemReason.WRONG_TYPE),
        ('"a text"', ProblemReason.WRONG_TYPE),
        ("sum(", ProblemReason.QUERY_ERROR),
        ("rate(answered_total)", ProblemReason.QUERY_ERROR),
        ("no_such_function(answered_total)", ProblemReason.QUERY_ERROR),
        ("several + on() several", ProblemReason.QUERY_ERROR),
        ("no_such_series # a comment", ProblemReason.EMPTY),
        # Prometheus warns about this one and answers all the same.
        ("quantile(7, several)", ProblemReason.INCOMPLETE),
    ],
)
async def test_what_is_no_figure_is_an_outcome_of_its_own(
    client: PrometheusClient, real: RealPrometheus, query: str, reason: ProblemReason
) -> None:
    answer = await ask(client, real.target, query)
    assert isinstance(answer, Problem)
    assert answer.reason is reason, answer
    assert answer.message


async def test_several_series_are_counted_and_none_is_taken(client: PrometheusClient, real: RealPrometheus) -> None:
    answer = await ask(client, real.target, "several")
    assert isinstance(answer, Problem)
    assert answer.series == 2
    assert "2 series" in answer.message


async def test_a_series_that_went_away_is_stale_and_not_empty(client: PrometheusClient, real: RealPrometheus) -> None:
    real.lines["vanishing"] = "1"
    wait_for("the series", lambda: real.holds("vanishing"))
    assert await ask(client, real.target, "vanishing") == Value(1.0)
    # The look back is a raster: one of its points must have seen the series.
    wait_for("a point of the raster", lambda: real.holds("present_over_time((vanishing)[900s:30s])"), 60)
    del real.lines["vanishing"]
    wait_for("the series to go", lambda: not real.holds("vanishing"))
    answer = await ask(client, real.target, "vanishing # by name")
    assert isinstance(answer, Problem)
    assert answer.reason is ProblemReason.STALE
    assert "15 minutes" in answer.message


async def test_all_queries_of_a_round_are_evaluated_at_one_time_which_is_the_servers(
    client: PrometheusClient, real: RealPrometheus
) -> None:
    answers = await client.round(real.target, {f"q{n}": "time()" for n in range(40)})
    assert len(set(answers.samples.values())) == 1
    (value,) = set(answers.samples.values())
    assert isinstance(value, Value)
    assert answers.at is not None
    assert answers.at.timestamp() == pytest.approx(value.value, abs=0.001)
    assert abs(datetime.now(UTC) - answers.at) < timedelta(seconds=30)


async def test_an_operator_whose_clock_is_ten_minutes_off_sees_the_same(
    client: PrometheusClient, real: RealPrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten minutes ahead nothing was scraped yet, ten minutes back neither.
    for minutes in (-10, 10):
        true = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda off=minutes * 60, true=true: true() + off)
            answers = await client.round(real.target, {"it": "sum(answered_total)"})
        assert answers.samples["it"] == Value(42.0)
        assert answers.at is not None
        assert abs(answers.at.timestamp() - true()) < 30


async def test_each_query_has_its_own_outcome(client: PrometheusClient, real: RealPrometheus) -> None:
    answers = await client.round(real.target, {"bad": "sum(", "good": "answered_total", "none": "no_such_series"})
    assert answers.samples["good"] == Value(42.0)
    reasons = {name: s.reason for name, s in answers.samples.items() if isinstance(s, Problem)}
    assert reasons == {"bad": ProblemReason.QUERY_ERROR, "none": ProblemReason.EMPTY}


async def test_nothing_of_the_servers_words_is_in_a_message(client: PrometheusClient, real: RealPrometheus) -> None:
    answer = await ask(client, real.target, "sum(very_private_name")
    assert isinstance(answer, Problem)
    assert "very_private_name" not in answer.message
    assert "HTTP 400 (bad_data)" in answer.message


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(value=st.text(max_size=40), quote=st.sampled_from("\"'"))
@example(value="\ufffd\x00\x7f\\", quote="'")
@example(value="\u2028\x85\r\n", quote='"')
def test_prometheus_reads_a_filled_in_string_as_exactly_the_value(real: RealPrometheus, value: str, quote: str) -> None:
    values = TemplateValues("5f3c", "9a1b", "60s", "team", "assistant", {"x": value})
    query = render(f"{quote}{{{{ .Args.x }}}}{quote}", values)
    data = urllib.parse.urlencode({"query": query}).encode()
    with urllib.request.urlopen(f"{real.target.url}/api/v1/query", data) as answer:  # noqa: S310
        found = json.load(answer)["data"]
    assert found["resultType"] == "string"
    assert found["result"][1] == value


async def test_tls_of_an_authority_of_its_own_and_a_password(guarded: GuardedPrometheus) -> None:
    async with PrometheusClient(AllowList.of([guarded.target.url])) as client:
        assert await ask(client, guarded.target, "1 + 1") == Value(2.0)
        wrong = dataclasses.replace(guarded.target, basic=BasicAuth("analyst", "battery staple"))
        answer = await ask(client, wrong, "1 + 1")
        assert isinstance(answer, Problem)
        assert answer.reason is ProblemReason.UNAUTHORIZED
        assert "battery" not in answer.message
        for nobody in (
            dataclasses.replace(guarded.target, basic=None),
            dataclasses.replace(guarded.target, basic=None, bearer="some-token"),
        ):
            answer = await ask(client, nobody, "1 + 1")
            assert isinstance(answer, Problem)
            assert answer.reason is ProblemReason.UNAUTHORIZED


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(guarded: GuardedPrometheus) -> None:
    other = f"https://127.0.0.1:{guarded.port}"
    async with PrometheusClient(AllowList.of([guarded.target.url, other])) as client:
        unknown = await ask(client, dataclasses.replace(guarded.target, ca=None), "1")
        elsewhere = await ask(client, dataclasses.replace(guarded.target, url=other), "1")
    for answer in (unknown, elsewhere):
        assert isinstance(answer, Problem)
        assert answer.reason is ProblemReason.UNREACHABLE
        assert "certificate is not trusted" in answer.message

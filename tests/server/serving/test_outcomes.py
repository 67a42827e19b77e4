"""How requests end, and what is measured of them."""

import threading
from collections.abc import Callable
from http import HTTPStatus

import httpx
import pytest

from rlhf_operator.api.signals import LATENCY_BUCKETS, RequestOutcome, Role
from rlhf_server.live import metrics as metrics_module
from servekit.local import CHAT, REVISION, Serving, text

BODY = {"messages": [{"role": "user", "content": "Hello"}]}


def ended(pod: Serving, outcome: RequestOutcome) -> None:
    pod.until(lambda: pod.count(outcome) == 1)
    others = {each for each in RequestOutcome if each is not outcome}
    assert {each: pod.count(each) for each in others} == dict.fromkeys(others, 0.0)


def test_every_outcome_is_at_0_before_the_first_request(pod: Serving) -> None:
    for role in Role:
        for outcome in RequestOutcome:
            assert pod.sample("rlhf_requests_total", outcome=outcome.value, role=role.value) == 0.0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_passes_unchanged_and_is_measured(pod: Serving, stream: bool) -> None:
    answer = pod.ask(stream=stream, do={"tokens": 7})
    assert answer.status_code == 200
    ended(pod, RequestOutcome.OK)
    assert pod.sample("rlhf_tokens_total", role="live", direction="output") == 7
    assert pod.sample("rlhf_tokens_total", role="live", direction="input") == 5
    assert pod.sample("rlhf_output_tokens_squared_total", role="live") == 49
    for name in ("rlhf_request_seconds", "rlhf_time_to_first_token_seconds", "rlhf_time_per_output_token_seconds"):
        assert pod.sample(f"{name}_count", role="live") == 1
        assert pod.sample(f"{name}_count", role="shadow") == 0
    kept = pod.recorder.exchanges[0]
    assert (kept.answer, kept.finish_reason, kept.streamed) == (text(7), "stop", stream)
    assert kept.first_token_seconds is not None
    assert 0 < kept.first_token_seconds <= kept.seconds
    if stream:
        events = [line for line in answer.text.split("\n\n") if line]
        assert len(events) == 1 + 7 + 2 + 1
        assert events[-1] == "data: [DONE]"


def test_a_stream_is_not_held_back(pod: Serving) -> None:
    with httpx.stream(
        "POST", f"{pod.live}{CHAT}", json={**BODY, "stream": True, "do": {"wait": "w"}}, timeout=20
    ) as got:
        lines = got.iter_lines()
        seen = [line for line in (next(lines) for _ in range(3)) if line]
        assert "t0 " in seen[-1], "the first token is here while the second is not made yet"
        assert pod.count(RequestOutcome.OK) == 0
        pod.release("w")
        rest = list(lines)
    assert any("t2 " in line for line in rest)
    ended(pod, RequestOutcome.OK)
    kept = pod.recorder.exchanges[0]
    assert kept.first_token_seconds is not None
    assert kept.first_token_seconds < kept.seconds


def test_the_edges_of_the_buckets_are_the_contracts(pod: Serving) -> None:
    pod.ask()
    pod.until(lambda: pod.sample("rlhf_request_seconds_count", role="live") == 1)
    found = [pod.sample("rlhf_request_seconds_bucket", role="live", le=repr(edge)) for edge in LATENCY_BUCKETS]
    assert None not in found


WRONG: list[tuple[dict[str, object], bool, int, RequestOutcome]] = [
    ({"status": 500}, False, 500, RequestOutcome.ERROR),
    ({"status": 503}, True, 503, RequestOutcome.ERROR),
    ({"raise": True}, False, 500, RequestOutcome.ERROR),
    ({"status": 400}, False, 400, RequestOutcome.CLIENT_ERROR),
    ({"status": 404}, True, 404, RequestOutcome.CLIENT_ERROR),
    ({"inside": 500}, True, 200, RequestOutcome.ERROR),
    ({"inside": 400}, True, 200, RequestOutcome.CLIENT_ERROR),
    ({"reason": "abort"}, True, 200, RequestOutcome.ERROR),
]


def test_what_went_wrong_is_told_apart(pod: Serving) -> None:
    for do, stream, status, _ in WRONG:
        # A server whose app raised ends the connection: none is used twice.
        answer = pod.ask(do=do, stream=stream, headers={"connection": "close"})
        assert answer.status_code == status
        assert answer.headers["x-rlhf-revision"] == REVISION, "who failed is known"
        known = len(pod.behind.received)
        pod.until(lambda: len(pod.recorder.exchanges) == known)  # noqa: B023
    assert [kept.outcome for kept in pod.recorder.exchanges] == [outcome for *_, outcome in WRONG]
    assert (pod.count(RequestOutcome.ERROR), pod.count(RequestOutcome.CLIENT_ERROR)) == (5, 3)
    assert pod.sample("rlhf_request_seconds_count", role="live") == 0, "times are those of answers"


def test_an_answer_that_breaks_off_is_an_error(pod: Serving) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        pod.ask(stream=True, do={"break": True})
    ended(pod, RequestOutcome.ERROR)
    assert pod.recorder.exchanges[0].answer == text(3)


def test_a_client_that_leaves_a_stream_has_cancelled_it(pod: Serving) -> None:
    with httpx.stream(
        "POST", f"{pod.live}{CHAT}", json={**BODY, "stream": True, "do": {"wait": "w"}}, timeout=20
    ) as got:
        next(line for line in got.iter_lines() if "t0" in line)
    ended(pod, RequestOutcome.CANCELLED)
    kept = pod.recorder.exchanges[0]
    assert (kept.output_tokens, kept.finish_reason) == (1, "")
    pod.release("w")
    pod.until(lambda: pod.signals.pod.in_flight[Role.LIVE] == 0)


def test_a_client_that_leaves_after_the_last_word_has_its_answer(pod: Serving) -> None:
    with httpx.stream("POST", f"{pod.live}{CHAT}", json={**BODY, "stream": True}, timeout=20) as got:
        next(line for line in got.iter_lines() if line == "data: [DONE]")
    ended(pod, RequestOutcome.OK)


def test_many_at_once_each_with_its_own_count(pod: Serving) -> None:
    def ask(number: int) -> None:
        pod.ask(stream=number % 2 == 0, do={"tokens": number}, headers={"x-request-id": f"id-{number}"})

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(2, 26)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(30)
    pod.until(lambda: len(pod.recorder.exchanges) == 24)
    assert {each.request_id: each.output_tokens for each in pod.recorder.exchanges} == {
        f"id-{number}": number for number in range(2, 26)
    }


def test_a_long_answer_is_kept_up_to_the_limit_and_counted_whole(serve: Callable[..., Serving]) -> None:
    pod = serve({"trajectorySampleRate": 1.0}, max_answer_chars=10)
    for stream in (False, True):
        assert text(50).split()[-1] in pod.ask(stream=stream, do={"tokens": 50}).text
    pod.until(lambda: len(pod.recorder.exchanges) == 2)
    for kept in pod.recorder.exchanges:
        assert (kept.answer, kept.answer_cut, kept.output_tokens) == (text(50)[:10], True, 50)


def test_only_the_sampled_share_is_handed_on(serve: Callable[..., Serving]) -> None:
    from rlhf_server.live.exchange import share

    pod = serve({"trajectorySampleRate": 0.3})
    names = [f"id-{number}" for number in range(40)]
    for name in names:
        pod.ask(headers={"x-request-id": name})
    pod.until(lambda: pod.count(RequestOutcome.OK) == 40)
    assert [each.request_id for each in pod.recorder.exchanges] == [name for name in names if share(name) < 0.3]


def test_a_recorder_that_fails_fails_no_request(pod: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def offer(exchange: object) -> None:
        raise RuntimeError("full")

    monkeypatch.setattr(pod.recorder, "offer", offer)
    assert pod.ask().status_code == HTTPStatus.OK
    ended(pod, RequestOutcome.OK)
    exposed = pod.signals.pod.metrics.expose().decode()
    assert 'rlhf_samples_dropped_total{reason="defect"' in exposed


def test_other_apis_are_counted_and_timed_only(pod: Serving) -> None:
    answer = pod.client.post(f"{pod.live}/v1/embeddings", json={"input": "x"})
    assert answer.status_code == 404
    ended(pod, RequestOutcome.CLIENT_ERROR)
    assert pod.client.get(f"{pod.live}/v1/models").status_code == 200
    assert sum(pod.count(outcome) for outcome in RequestOutcome) == 1


def test_slices_come_from_headers_and_the_allow_list(serve: Callable[..., Serving]) -> None:
    pod = serve({"slices": {"team": ["search", "mail"]}, "trajectorySampleRate": 1.0})
    assert pod.sample("rlhf_requests_total", role="live", outcome="ok", team="search") == 0.0
    pod.ask(headers={"x-rlhf-team": "search"})
    pod.ask(headers={"x-rlhf-team": "Search", "x-rlhf-cohort": "c" * 5000})
    pod.ask(headers={"x-rlhf-feature": "anything"})
    pod.until(lambda: len(pod.recorder.exchanges) == 3)
    ok = RequestOutcome.OK
    assert pod.count(ok, team="search") == 1
    assert pod.count(ok, team="other", cohort="other") == 1
    assert pod.count(ok, feature="other") == 1
    exposed = pod.signals.pod.metrics.expose().decode()
    assert "anything" not in exposed
    assert "Search" not in exposed


def test_answers_are_compared_two_by_two_and_costs_can_be_made_of_tokens(pod: Serving) -> None:
    for number in range(5):
        pod.ask(stream=number % 2 == 0, do={"tokens": 4 + number})
    pod.until(lambda: pod.count(RequestOutcome.OK) == 5)
    written = [4 + number for number in range(5)]
    assert pod.sample("rlhf_tokens_total", role="live", direction="input") == 5 * 5
    assert pod.sample("rlhf_input_tokens_squared_total", role="live") == 5 * 25
    assert pod.sample("rlhf_output_tokens_squared_total", role="live") == sum(each**2 for each in written)
    assert pod.sample("rlhf_input_output_tokens_product_total", role="live") == 5 * sum(written)
    # t0 t1 t2 t3 against one more of the same: 4 of 3 + 4 word pairs, and 6 of 5 + 6; the fifth waits for another.
    assert pod.sample("rlhf_diversity_pairs_total", role="live") == 2
    assert pod.sample("rlhf_diversity_sum_total", role="live") == pytest.approx(4 / 7 + 6 / 11)
    assert pod.sample("rlhf_diversity_squares_total", role="live") == pytest.approx((4 / 7) ** 2 + (6 / 11) ** 2)
    assert pod.sample("rlhf_diversity_pairs_total", role="shadow") == 0


def test_a_slices_first_answer_is_counted_after_a_scrape_has_shown_its_series_at_0(
    serve: Callable[..., Serving],
) -> None:
    pod = serve({"slices": {"team": ["search"]}})
    for asked, expected in ((1, 0), (2, 2), (3, 3)):
        pod.ask(headers={"x-rlhf-team": "search"})
        pod.until(lambda: pod.count(RequestOutcome.OK, team="search") == asked)  # noqa: B023
        # As Prometheus sees it: increase() needs the 0 to count the first.
        shown = httpx.get(f"{pod.admin}/metrics").text
        assert value(shown, "rlhf_time_to_first_token_seconds_count", team="search") == expected
        assert value(shown, "rlhf_tokens_total", team="search", direction="output") == 3 * expected


def value(exposed: str, name: str, **labels: str) -> float:
    """One live sample of a scrape."""
    wanted = {"role": "live", "feature": "", **labels}
    for line in exposed.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{each}"' in line for key, each in wanted.items()):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no {name} with {labels}")


def test_more_answers_than_may_wait_are_counted_at_once(monkeypatch: pytest.MonkeyPatch, pod: Serving) -> None:
    monkeypatch.setattr(metrics_module, "_HELD", 2)
    for _ in range(3):
        pod.ask(headers={"x-rlhf-team": "any"})
    pod.until(lambda: pod.count(RequestOutcome.OK, team="other") == 3)
    assert pod.sample("rlhf_request_seconds_count", role="live", team="other") == 1
    assert b"rlhf_request_seconds" in pod.signals.pod.metrics.expose()
    assert pod.sample("rlhf_request_seconds_count", role="live", team="other") == 3


def test_settings_change_while_the_pod_runs(serve: Callable[..., Serving]) -> None:
    pod = serve()
    pod.ask(headers={"x-rlhf-team": "search"})
    pod.until(lambda: pod.count(RequestOutcome.OK, team="other") == 1)
    pod.set_signals({"slices": {"team": ["search"]}, "maxConcurrentShadows": 3})
    pod.until(lambda: pod.signals.pod.signals.max_concurrent_shadows == 3)
    pod.until(lambda: pod.sample("rlhf_requests_total", role="shadow", outcome="ok", team="search") == 0.0)
    pod.ask(headers={"x-rlhf-team": "search"})
    pod.until(lambda: pod.count(RequestOutcome.OK, team="search") == 1)


def test_settings_that_can_not_be_read_leave_the_former_in_force(serve: Callable[..., Serving]) -> None:
    pod = serve({"maxConcurrentShadows": 3})
    limits = 3
    for content in ("", "{", '{"judgeSampleRate": 2}', '{"unknown": 1}', " " * (1024 * 1024 + 1)):
        pod.set_signals(content)
        pod.until(lambda: pod.signals.pod.file.stale)
        exposed = pod.signals.pod.metrics.expose().decode().splitlines()
        assert any(line.startswith("rlhf_settings_stale{") and line.endswith(" 1.0") for line in exposed)
        assert pod.signals.pod.signals.max_concurrent_shadows == limits
        limits += 1
        pod.set_signals({"maxConcurrentShadows": limits})
        pod.until(lambda: pod.signals.pod.signals.max_concurrent_shadows == limits)  # noqa: B023
        assert not pod.signals.pod.file.stale


def test_combinations_of_slices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "_MAX_COMBINATIONS", 8)
    metrics = metrics_module.Metrics("n", "r", "v")
    for number in range(40):
        metrics.begin(Role.LIVE, {"team": f"t{number}", "feature": "", "cohort": "", "language": ""})
    assert metrics.expose().count(b"\nrlhf_request_seconds_count") <= 2 * 8 + 1

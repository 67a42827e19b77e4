"""Judges are told of answers, and whatever they do never reaches a request."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.signals import LiveSample, RequestOutcome, Role
from rlhf_server.live.exchange import Exchange, Kind, digest, share
from rlhf_server.live.judges import Judges, judge_of
from rlhf_server.live.samples import sample_of
from servekit.judges import FakeJudge, judging, until
from servekit.local import Serving, text


def sample(number: int, answer: str = "a") -> LiveSample:
    empty = digest({})
    return LiveSample(
        request_id=f"id-{number}",
        prompt_digest=empty,
        revision="r1",
        role=Role.LIVE,
        prompt="p",
        answer=answer,
        finish_reason="stop",
        sampling_digest=empty,
        at=1.0,
    )


def exchange(**changes: Any) -> Exchange:
    fields: dict[str, Any] = {
        "request_id": "id",
        "role": Role.LIVE,
        "revision": "r1",
        "served": "",
        "kind": Kind.CHAT,
        "outcome": RequestOutcome.OK,
        "status": 200,
        "request": {"messages": [{"role": "user", "content": "q"}]},
        "headers": {},
        "slices": {},
        "answer": "a",
        "answer_cut": False,
        "finish_reason": "stop",
        "tool_calls": [],
        "input_tokens": 1,
        "output_tokens": 1,
        "mean_log_prob": None,
        "streamed": False,
        "started_at": 1.0,
        "seconds": 0.5,
        "first_token_seconds": 0.1,
    }
    return Exchange(**{**fields, **changes})


@pytest.mark.parametrize("count", [2, 3, 7])
def test_both_halves_go_to_one_judge_and_all_judges_get_some(count: int) -> None:
    addresses = [f"10.0.0.{number}" for number in range(count)]
    chosen = [judge_of(f"id-{number}", addresses) for number in range(3000)]
    assert chosen == [judge_of(f"id-{number}", addresses[::-1]) for number in range(3000)]
    assert min(Counter(chosen).values()) > 0.75 * 3000 / count
    fewer = addresses[1:]
    moved = [was for number, was in enumerate(chosen) if judge_of(f"id-{number}", fewer) != was]
    assert set(moved) == {addresses[0]}, "only those of the judge that is gone"


@given(st.text(min_size=1), st.lists(st.text(), min_size=1))
def test_the_choice_is_one_of_the_addresses(identity: str, addresses: list[str]) -> None:
    identity = identity.encode("utf-8", "replace").decode()
    addresses = [address.encode("utf-8", "replace").decode() for address in addresses]
    assert judge_of(identity, addresses) in addresses


def test_what_a_judge_is_told() -> None:
    request = {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]}],
        "temperature": 0.5,
        "stream": True,
        "metadata": {"retrieved": "a document"},
    }
    told = sample_of(exchange(request=request, served="r0", slices={"team": "search"}, headers={"x-session-id": "bob"}))
    assert told is not None
    assert (told.prompt, told.answer, told.finish_reason, told.at) == ("q", "a", "stop", 1.5)
    assert [(turn.role, turn.content) for turn in told.messages] == [("system", "s"), ("user", "q")]
    assert told.row == {"retrieved": "a document"}
    assert told.sampling_digest == digest({"temperature": 0.5})
    assert "bob" not in told.model_dump_json()
    same = sample_of(exchange(headers={"x-session-id": "bob"}), b"another key")
    assert same is not None
    assert same.session not in ("", told.session)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(RequestOutcome.ERROR, "error"), (RequestOutcome.CANCELLED, "abort"), (RequestOutcome.SHED, "shed")],
)
def test_one_sided_ends_are_told_without_an_answer(outcome: RequestOutcome, reason: str) -> None:
    told = sample_of(exchange(outcome=outcome, answer="half of"))
    assert told is not None
    assert (told.finish_reason, told.answer) == (reason, "")


@given(
    st.dictionaries(
        st.sampled_from(["messages", "prompt", "input", "instructions", "metadata", "temperature"]),
        st.recursive(
            st.none() | st.text(alphabet=st.characters()) | st.integers(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "text"]), inner),
        ),
    ),
    st.sampled_from(list(Kind)),
)
def test_no_request_makes_a_sample_that_can_not_be_sent(request: dict[str, Any], kind: Kind) -> None:
    told = sample_of(exchange(request=request, kind=kind, answer="\ud800"))
    if told is not None:
        LiveSample.model_validate_json(told.model_dump_json(by_alias=True))


Dropped = list[tuple[str, str]]


@pytest.fixture
async def judges() -> AsyncIterator[Callable[..., Awaitable[tuple[Judges, Dropped]]]]:
    """A sender to addresses of the test's own; what it dropped."""
    made: list[Judges] = []

    async def make(url: str, addresses: Sequence[str] | Callable[[], Sequence[str]]) -> tuple[Judges, Dropped]:
        async def resolve(host: str, port: int) -> Sequence[str]:
            return addresses() if callable(addresses) else addresses

        dropped: Dropped = []
        sender = Judges(url, lambda lost, reason: dropped.append((lost.request_id, reason)), resolve)
        made.append(sender)
        await sender.look()
        sender.start()
        return sender, dropped

    yield make
    for sender in made:
        await sender.close()


async def eventually(condition: Callable[[], bool], shown: Callable[[], Any] = lambda: "") -> None:
    await asyncio.to_thread(until, condition, shown)


Make = Callable[..., Awaitable[tuple[Judges, Dropped]]]


async def test_samples_come_in_batches_each_once(judges: Make) -> None:
    with judging(FakeJudge()) as judge:
        sender, dropped = await judges(judge.url, ["127.0.0.1"])
        for number in range(200):
            sender.offer(sample(number))
        await eventually(lambda: len(judge.ids()) == 200)
        assert judge.ids() == [f"id-{number}" for number in range(200)]
        assert judge.batches <= 8
        assert dropped == []


async def test_a_full_judge_is_asked_again_after_its_time(judges: Make) -> None:
    with judging(FakeJudge(status=429, retry_after="1")) as judge:
        sender, dropped = await judges(judge.url, ["127.0.0.1"])
        for number in range(10):
            sender.offer(sample(number))
        await eventually(lambda: judge.batches == 1)
        began = time.monotonic()
        judge.status = 202
        await eventually(lambda: len(judge.ids()) == 10)
        assert time.monotonic() - began > 0.5
        assert judge.ids() == [f"id-{number}" for number in range(10)]
        assert dropped == []


async def test_what_waits_is_bounded(judges: Make) -> None:
    with judging(FakeJudge(silent=True)) as judge:
        sender, dropped = await judges(judge.url, ["127.0.0.1"])
        for number in range(2000):
            sender.offer(sample(number))
        assert 0 < 2000 - len(dropped) <= 512
        assert {reason for _, reason in dropped} == {"queue_full"}
    huge, lost = await judges("http://judge:1", ["127.0.0.9"])
    for number in range(40):
        huge.offer(sample(number, "x" * 1024 * 1024))
    assert len(lost) >= 30


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 500])
async def test_a_judge_that_refuses_costs_its_batch(judges: Make, status: int) -> None:
    with judging(FakeJudge(status=status)) as judge:
        sender, dropped = await judges(judge.url, ["127.0.0.1"])
        sender.offer(sample(1))
        await eventually(lambda: dropped == [("id-1", "judge_refused")])
        judge.status = 202
        sender.offer(sample(2))
        await eventually(lambda: judge.ids() == ["id-2"])


async def test_a_judge_that_never_ends_its_answer_has_answered(judges: Make) -> None:
    with judging(FakeJudge(endless=True)) as judge:
        sender, dropped = await judges(judge.url, ["127.0.0.1"])
        for number in range(3):
            sender.offer(sample(number))
            await eventually(lambda count=number + 1: len(judge.ids()) == count)  # type: ignore[misc]
        assert dropped == []


async def test_a_silent_judge_is_given_up_and_the_others_get_theirs(judges: Make) -> None:
    with judging(FakeJudge()) as judge, socket.create_server(("127.0.0.2", 0)) as silent:
        port = judge.url.rpartition(":")[2]
        silent.close()
        with socket.create_server(("127.0.0.2", int(port))):
            sender, dropped = await judges(f"http://judge:{port}", ["127.0.0.1", "127.0.0.2"])
            for number in range(50):
                sender.offer(sample(number))
            await eventually(lambda: len(judge.ids()) + len(dropped) == 50)
    assert {reason for _, reason in dropped} == {"judge_unreachable"}
    assert set(judge.ids()) == {
        f"id-{n}" for n in range(50) if judge_of(f"id-{n}", ["127.0.0.1", "127.0.0.2"])[-1] == "1"
    }


async def test_what_waited_for_a_judge_that_is_gone_goes_where_its_other_half_will(judges: Make) -> None:
    with judging(FakeJudge()) as judge:
        port = judge.url.rpartition(":")[2]
        addresses = ["127.0.0.1", "127.0.0.3"]
        sender, dropped = await judges(f"http://judge:{port}", lambda: addresses)
        gone = [number for number in range(60) if judge_of(f"id-{number}", addresses) == "127.0.0.3"]
        for number in gone:
            sender.offer(sample(number))
        del addresses[1]
        await sender.look()
        await eventually(lambda: len(judge.ids()) == len(gone))
        assert dropped == []


async def test_without_an_address_everything_is_dropped_and_counted(judges: Make) -> None:
    sender, dropped = await judges("http://judge:1", [])
    sender.offer(sample(1))
    assert dropped == [("id-1", "no_judge")]


async def test_a_name_that_no_longer_resolves_changes_nothing(judges: Make) -> None:
    answers: list[Sequence[str] | Exception] = [["127.0.0.1"]]

    def resolve() -> Sequence[str]:
        if isinstance(answer := answers[-1], Exception):
            raise answer
        return answer

    with judging(FakeJudge()) as judge:
        sender, _ = await judges(judge.url, resolve)
        answers.append(socket.gaierror("no name server"))
        await sender.look()
        sender.offer(sample(1))
        await eventually(lambda: judge.ids() == ["id-1"])


def test_pods_tell_judges_of_the_sampled_share_of_both_roles(serve: Callable[..., Serving]) -> None:
    with judging(FakeJudge()) as judge:
        pod = serve({"judge": judge.url, "judgeSampleRate": 0.5})
        pod.until(lambda: pod.signals.pod._judges is not None and bool(pod.signals.pod._judges._judges))
        names = [f"id-{number}" for number in range(16)]
        for name in names:
            for url in (pod.live, pod.shadow):
                pod.ask(url=url, headers={"x-request-id": name, "x-rlhf-served": "r0"}, stream=True)
        wanted = sorted(name for name in names for _ in Role if share(name) < 0.5)
        pod.until(lambda: len(judge.ids()) >= len(wanted))
        assert sorted(judge.ids()) == wanted
        assert {(each.role, each.served, each.answer) for each in judge.samples} == {
            (Role.LIVE, "r0", text(3)),
            (Role.SHADOW, "r0", text(3)),
        }


@pytest.mark.parametrize("trouble", ["dead", "silent", "endless", "refusing", "nameless"])
def test_no_request_notices_what_a_judge_does(serve: Callable[..., Serving], trouble: str) -> None:
    fake = FakeJudge(silent=trouble == "silent", endless=trouble == "endless")
    fake.status = 500 if trouble == "refusing" else 202
    with judging(fake) as judge:
        url = {"dead": "http://127.0.0.1:9", "nameless": "http://judge.invalid:80"}.get(trouble, judge.url)
        pod = serve({"judge": url, "judgeSampleRate": 1.0})
        pod.ask()
        began = time.monotonic()
        assert [pod.ask(stream=number % 2 == 0).status_code for number in range(30)] == [200] * 30
        assert time.monotonic() - began < 10
        pod.until(lambda: pod.count(RequestOutcome.OK) == 31)


def test_another_judge_takes_over_when_the_settings_change(serve: Callable[..., Serving]) -> None:
    with judging(FakeJudge()) as first, judging(FakeJudge()) as second:
        pod = serve({"judge": first.url, "judgeSampleRate": 1.0})
        pod.until(lambda: pod.ask().status_code == 200 and bool(first.ids()))
        pod.set_signals({"judge": second.url, "judgeSampleRate": 1.0})
        pod.until(lambda: pod.ask().status_code == 200 and bool(second.ids()))
        pod.set_signals({})
        pod.until(lambda: pod.signals.pod._judges is None)
        assert pod.ask().status_code == 200

"""Readiness: probes at the start and after every outage, and no score in between."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rlhf_operator.api.scorerfile import Probe
from rlhf_server.judge.engine import EngineAway, NoScore, Scored
from rlhf_server.judge.errors import Unavailable
from rlhf_server.judge.readiness import Readiness, compare
from rlhf_server.judge.schema import ScoreItem

PROBES = [
    Probe(prompt="p", response="1", scores={"a": 1.0, "b": 2.0}),
    Probe(prompt="p", response="3", scores={"a": 3.0, "b": 4.0}),
]
ITEM = ScoreItem(prompt="p", response="1")


class Fragile:
    """An engine that scores (n, n + 1), off by `shift`, and can be away."""

    def __init__(self) -> None:
        self.away = False
        self.shift = 0.0
        self.asked = 0
        self.during: Callable[[], None] = lambda: None

    async def check(self) -> None:
        if self.away:
            raise EngineAway("nobody answers")

    async def score(self, items: Sequence[ScoreItem]) -> list[Scored]:
        await self.check()
        self.asked += len(items)
        self.during()
        return [{"a": float(i.response) + self.shift, "b": float(i.response) + 1 + self.shift} for i in items]

    async def close(self) -> None:
        return


@pytest.mark.parametrize(
    ("scored", "says"),
    [
        ([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}], None),
        ([{"a": 1.0009, "b": 2.0}, {"a": 3.0, "b": 3.9991}], None),
        ([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.002}], "probe 2 scored 4.002 on b instead of 4"),
        ([{"a": math.nan, "b": 2.0}, {"a": 3.0, "b": 4.0}], "probe 1 scored nan on a instead of 1"),
        ([{"a": 1.0}, {"a": 3.0, "b": 4.0}], "probe 1 scored nan on b"),
        ([{"a": 2.0, "b": 1.0}, {"a": 4.0, "b": 3.0}], "probe 1 scored 2 on a instead of 1"),
        ([{"a": 0.731, "b": 0.881}, {"a": 0.953, "b": 0.982}], "probe 1 scored 0.731 on a instead of 1"),
        ([NoScore("refused"), {"a": 3.0, "b": 4.0}], "probe 1 has no score: refused"),
    ],
)
def test_probes_are_compared_with_what_was_evaluated(scored: list[Scored], says: str | None) -> None:
    found = compare(PROBES, scored, 1e-3)
    assert (found is None) if says is None else (found is not None and found.startswith(says))


async def until(readiness: Readiness, condition: Callable[[Any], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition(readiness.state):  # noqa: ASYNC110 - a condition with a deadline
            await asyncio.sleep(0.001)


async def followed(engine: Fragile) -> tuple[Readiness, "asyncio.Task[None]"]:
    readiness = Readiness(engine, PROBES, 1e-3, poll_seconds=0.005)
    return readiness, asyncio.create_task(readiness.follow())


async def test_nothing_is_scored_before_every_probe_was() -> None:
    engine = Fragile()
    readiness = Readiness(engine, PROBES, 1e-3, poll_seconds=0.005)
    with pytest.raises(Unavailable) as refused:
        await readiness.score([ITEM])
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("Starting", 5)
    assert engine.asked == 0
    task = asyncio.create_task(readiness.follow())
    await until(readiness, lambda state: state is None)
    assert engine.asked == 2
    assert await readiness.score([ITEM]) == [{"a": 1.0, "b": 2.0}]
    task.cancel()


async def test_a_wrong_engine_never_becomes_ready_and_the_reason_names_the_probe() -> None:
    engine = Fragile()
    engine.shift = 0.5
    readiness, task = await followed(engine)
    await until(readiness, lambda state: state is not None and state.reason == "ProbeMismatch")
    assert readiness.state is not None
    assert "probe 1 scored 1.5 on a instead of 1" in readiness.state.message
    with pytest.raises(Unavailable) as refused:
        await readiness.score([ITEM])
    assert refused.value.reason == "ProbeMismatch"
    asked = engine.asked
    await until(readiness, lambda state: engine.asked > asked + 4)
    assert readiness.state.reason == "ProbeMismatch"
    engine.shift = 0.0
    await until(readiness, lambda state: state is None)
    task.cancel()


async def test_after_an_outage_that_a_request_meets_the_probes_come_first() -> None:
    engine = Fragile()
    readiness, task = await followed(engine)
    await until(readiness, lambda state: state is None)
    task.cancel()
    engine.away = True
    with pytest.raises(Unavailable) as refused:
        await readiness.score([ITEM])
    assert refused.value.reason == "EngineAway"
    engine.away, engine.shift = False, 7.0
    with pytest.raises(Unavailable):
        await readiness.score([ITEM])
    task = asyncio.create_task(readiness.follow())
    await until(readiness, lambda state: state is not None and state.reason == "ProbeMismatch")
    task.cancel()


async def test_after_an_outage_that_only_the_poll_sees_the_probes_come_first_too() -> None:
    engine = Fragile()
    readiness, task = await followed(engine)
    await until(readiness, lambda state: state is None)
    engine.away = True
    await until(readiness, lambda state: state is not None and state.reason == "EngineAway")
    engine.shift, engine.away = 7.0, False
    await until(readiness, lambda state: state is not None and state.reason == "ProbeMismatch")
    task.cancel()


async def test_a_score_that_spans_an_outage_is_not_given() -> None:
    engine = Fragile()
    readiness, task = await followed(engine)
    await until(readiness, lambda state: state is None)
    task.cancel()

    async def another_request_fails() -> None:
        engine.away = True
        with pytest.raises(Unavailable):
            await readiness.score([ITEM])
        engine.away = False

    failing: list[asyncio.Task[None]] = []
    engine.during = lambda: failing.append(asyncio.create_task(another_request_fails()))
    original = engine.score

    async def slow(items: Sequence[ScoreItem]) -> list[Scored]:
        scored = await original(items)
        engine.during = lambda: None
        await asyncio.gather(*failing)
        return scored

    engine.score = slow  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="went away meanwhile"):
        await readiness.score([ITEM])


async def test_a_defect_while_following_is_an_outage_and_is_followed_on() -> None:
    engine = Fragile()
    readiness, task = await followed(engine)
    await until(readiness, lambda state: state is None)
    original, engine.check = engine.check, None  # type: ignore[method-assign, assignment]
    await until(readiness, lambda state: state is not None and state.reason == "InternalError")
    engine.check = original  # type: ignore[method-assign]
    await until(readiness, lambda state: state is None)
    task.cancel()


async def test_draining_says_no_and_still_answers() -> None:
    engine = Fragile()
    readiness, task = await followed(engine)
    await until(readiness, lambda state: state is None)
    readiness.drain()
    assert readiness.state is not None
    assert readiness.state.reason == "Draining"
    assert await readiness.score([ITEM]) == [{"a": 1.0, "b": 2.0}]
    task.cancel()

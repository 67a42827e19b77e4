"""The queue's rules, by hand and by a machine that tries everything. Time is a number that the tests move."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from rlhf_operator.runtime.schedule import Backoff, Schedule

KEYS = ["a", "b", "c"]


def schedule() -> Schedule[str]:
    return Schedule(Backoff(base_seconds=1.0, max_seconds=8.0, jitter=0.0))


def test_a_key_that_is_added_twice_is_handed_out_once() -> None:
    queue = schedule()
    queue.add("a")
    queue.add("a")
    assert queue.depth == 1
    assert queue.take(0) == "a"
    assert queue.take(0) is None


def test_a_key_in_work_is_not_handed_out_again_until_its_work_ends() -> None:
    queue = schedule()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.add("a")
    assert queue.take(0) is None
    queue.done("a")
    assert queue.take(0) == "a"


def test_keys_come_out_in_the_order_in_which_they_came() -> None:
    queue = schedule()
    for key in "cab":
        queue.add(key)
    assert [queue.take(0) for _ in range(3)] == ["c", "a", "b"]


def test_a_wake_up_comes_at_its_time_and_not_before() -> None:
    queue = schedule()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.done("a", wake_at=10.0)
    assert queue.next_due() == 10.0
    assert queue.take(9.9) is None
    assert queue.take(10.0) == "a"


def test_a_reconcile_replaces_the_wake_up_that_was_asked_for_before_it() -> None:
    queue = schedule()
    queue.add_at("a", 5.0)
    queue.add("a")
    assert queue.take(0) == "a"
    queue.done("a", wake_at=20.0)
    assert queue.take(5.0) is None
    assert queue.take(20.0) == "a"


def test_the_earlier_of_two_wake_ups_wins() -> None:
    queue = schedule()
    queue.add_at("a", 20.0)
    queue.add_at("a", 5.0)
    queue.add_at("a", 30.0)
    assert queue.delayed == 1
    assert queue.take(5.0) == "a"
    queue.done("a")
    assert queue.take(1000.0) is None


def test_back_off_doubles_up_to_its_bound_and_ends_with_success() -> None:
    queue = schedule()
    queue.add("a")
    now, delays = 0.0, []
    for _ in range(6):
        assert queue.take(now) == "a"
        delays.append(queue.failed("a", now))
        now += delays[-1]
    assert delays == [1, 2, 4, 8, 8, 8]
    assert queue.take(now) == "a"
    queue.done("a")
    queue.add("a")
    assert queue.take(now) == "a"
    assert queue.failed("a", now) == 1


def test_a_change_during_the_back_off_is_not_kept_waiting() -> None:
    queue = schedule()
    queue.add("a")
    queue.take(0)
    queue.failed("a", 0)
    queue.add("a")
    assert queue.take(0.1) == "a"


def test_a_dropped_key_forgets_its_failures_and_its_wake_up() -> None:
    queue = schedule()
    queue.add("a")
    queue.take(0)
    queue.failed("a", 0)
    assert queue.take(1.0) == "a"
    queue.drop("a")
    assert queue.next_due() is None
    queue.add("a")
    queue.take(2.0)
    assert queue.failed("a", 2.0) == 1


@pytest.mark.parametrize("failures", [1, 3, 40, 10_000])
def test_jitter_keeps_the_delay_between_half_and_all_of_its_bound(failures: int) -> None:
    backoff = Backoff(base_seconds=0.5, max_seconds=300, jitter=0.5)
    delays = {backoff.delay(failures, random.Random(seed)) for seed in range(50)}
    full = min(300, 0.5 * 2.0 ** min(failures - 1, 60))
    assert all(full / 2 <= delay <= full for delay in delays)
    assert len(delays) > 40


def test_superseded_wake_ups_do_not_pile_up() -> None:
    queue = schedule()
    for number in range(10_000):
        queue.add_at("a", 1e6 - number)
    assert len(queue._heap) < 1_000
    assert queue.next_due() == 1e6 - 9_999


class Machine(RuleBasedStateMachine):
    """Any order of calls, against a plain model: sets and a dictionary."""

    keys = Bundle("keys")

    @initialize()
    def start(self) -> None:
        self.queue = schedule()
        self.now = 0.0
        self.wanted: set[str] = set()
        self.working: set[str] = set()
        self.due: dict[str, float] = {}

    @rule(key=st.sampled_from(KEYS))
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.wanted.add(key)

    @rule(key=st.sampled_from(KEYS), delay=st.floats(0, 10))
    def add_at(self, key: str, delay: float) -> None:
        self.queue.add_at(key, self.now + delay)
        self.due[key] = min(self.due.get(key, float("inf")), self.now + delay)

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        for ripe in [key for key, due in self.due.items() if due <= self.now]:
            del self.due[ripe]
            self.wanted.add(ripe)
        possible = self.wanted - self.working
        taken = self.queue.take(self.now)
        if taken is None:
            assert not possible, f"{possible} is wanted and nobody works on it"
            return
        key = taken
        assert key in possible
        self.wanted.discard(key)
        self.working.add(key)
        self.due.pop(key, None)

    @rule(key=st.sampled_from(KEYS), delay=st.none() | st.floats(0, 10))
    def done(self, key: str, delay: float | None) -> None:
        if key not in self.working:
            return
        wake_at = None if delay is None else self.now + delay
        self.queue.done(key, wake_at)
        self.working.discard(key)
        if wake_at is not None:
            self.due[key] = min(self.due.get(key, float("inf")), wake_at)

    @rule(key=st.sampled_from(KEYS))
    def failed(self, key: str) -> None:
        if key not in self.working:
            return
        delay = self.queue.failed(key, self.now)
        assert 0 < delay <= 8
        self.working.discard(key)
        self.due[key] = min(self.due.get(key, float("inf")), self.now + delay)

    @rule(key=st.sampled_from(KEYS))
    def drop(self, key: str) -> None:
        if key not in self.working:
            return
        self.queue.drop(key)
        self.working.discard(key)
        self.due.pop(key, None)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.queue.working == len(self.working)
        assert self.queue.delayed == len(self.due)
        assert self.queue.next_due() == min(self.due.values(), default=None)


TestMachine = Machine.TestCase
TestMachine.settings = settings(stateful_step_count=40)
